"""Networks over a whole case, streamed along axis 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice

import torch
from torch import Tensor, nn

from autoseg3d.sliding_window.means import FeatureMean, LogitMean, refuse_overflow, slab_channels, uses_features
from autoseg3d.sliding_window.slab import HalfPrecisionMean, Mean
from autoseg3d.sliding_window.windows import OneHot, WindowOptions, mirror_combinations, window_of, window_starts
from planners.contract import Triple

Progress = Callable[[str, int, int], None]

PIECE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Slab:
    """Finished rows: mean `logits` (K, rows, Y, X) float32 of the rows from `start` on along axis 0.

    The tensor is a view of a buffer that is used again once the next slab is asked for. `of_network(i)`, where the
    networks were asked to be kept apart, gives the logits of one of them in a tensor of its own.
    """

    start: int
    logits: Tensor
    of_network: Callable[[int], Tensor] | None = None


def slab_bytes(
    shape: Triple, patch: Triple, networks: Sequence[nn.Module], num_classes: int, *, apart: bool = False, half_weights: bool = False
) -> int:
    """Size of the slab that `predict_slabs` holds for a case of this shape."""
    totals = half_weights and not uses_features(networks, num_classes, apart=apart)
    channels = slab_channels(networks, num_classes, apart=apart) + totals
    return 4 * channels * patch[0] * max(shape[1], patch[1]) * max(shape[2], patch[2])


def predict_slabs(
    image: Tensor,
    networks: Sequence[nn.Module],
    options: WindowOptions,
    *,
    num_classes: int,
    band: tuple[int, int] | None = None,
    previous: OneHot | None = None,
    apart: bool = False,
    progress: Progress | None = None,
) -> Iterator[Slab]:
    """Mean logits of a whole case, streamed along axis 0 as soon as no later window can change them.

    Args:
        image: (C, Z, Y, X) float32 on the CPU. Axes shorter than the patch are padded with zeros, half on each side.
        networks: modules in eval mode on `options.device`; their logits are averaged.
        num_classes: channels of the logits.
        band: rows [first, last) of axis 1 that are wanted; only windows that touch them are computed and only they
            are held and handed out.
        previous: labels of an earlier stage, appended to the image as one-hot channels.
        apart: keep what each network says, for `Slab.of_network`; costs room where logits are held.
        progress: told the windows done, after every batch.

    Raises ModelError where a network gives NaN or infinity.
    """
    shape: Triple = (image.shape[1], image.shape[2], image.shape[3])
    first, last = band or (0, shape[1])
    padded: Triple = tuple(max(n, p) for n, p in zip(shape, options.patch, strict=True))  # type: ignore[assignment]
    low: Triple = tuple((m - n) // 2 for m, n in zip(padded, shape, strict=True))  # type: ignore[assignment]
    rows = (first + low[1], last + low[1])
    starts = [s for s in window_starts(padded, options.patch, options.step) if s[1] < rows[1] and s[1] + options.patch[1] > rows[0]]
    features = uses_features(networks, num_classes, apart=apart)
    half = options.half_weights and not features
    accumulate = FeatureMean(networks) if features else LogitMean(networks, num_classes, apart=apart, one_by_one=half)
    flips = mirror_combinations(options.mirror_axes)
    scale = 1 / (len(flips) * accumulate.averaged)
    slab = (HalfPrecisionMean if half else Mean)(padded, options, channels=accumulate.channels, rows=rows, scale=scale)

    def finished(until: int) -> Iterator[Slab]:
        """Hands out the rows up to `until` in pieces small enough for the logits of features, then lets go of them."""
        begin, end = max(slab.first, low[0]), min(until, low[0] + shape[0])
        height = max(1, PIECE_BYTES // (4 * num_classes * (last - first) * shape[2]))
        for row in range(begin, end, height):
            held = slab.take(row, min(row + height, end))[..., low[2] : low[2] + shape[2]]
            yield Slab(row - low[0], accumulate.logits(held), partial(accumulate.of_network, held) if apart else None)
        if until < padded[0]:
            slab.advance(until)

    done = 0
    for first_row, row_of_windows in groupby(starts, key=lambda start: start[0]):
        if first_row > slab.first:
            yield from finished(first_row)
        while batch := list(islice(row_of_windows, options.batch_size)):
            windows = torch.stack([window_of(image, start, low, options.patch, previous) for start in batch])
            for forward in accumulate.passes:
                for start, output in zip(batch, _forward(forward, windows, flips, options), strict=True):
                    slab.add(start, output)
            done += len(batch)
            if progress is not None:
                progress("windows", done, len(starts))
    yield from finished(padded[0])


@torch.inference_mode()
def _forward(forward: Callable[[Tensor], Tensor], windows: Tensor, flips: Sequence[tuple[int, ...]], options: WindowOptions) -> Tensor:
    """(B, channels, *patch) float32 sum over the mirrored copies, on the device of the slab."""
    windows = windows.to(options.device)
    total: Tensor | None = None
    for axes in flips:
        dims = [axis + 2 for axis in axes]
        output = forward(windows.flip(dims) if dims else windows)
        output = output.flip(dims) if dims else output
        # A network may hand back its own input, which must not be added to in place.
        total = (output.clone() if len(flips) > 1 else output) if total is None else total.add_(output)
    assert total is not None
    refuse_overflow(total)
    return total.contiguous().to(options.accumulate_on or options.device)
