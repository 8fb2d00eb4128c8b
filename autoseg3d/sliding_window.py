"""Sliding windows: networks over a whole case, streamed, so that only a slab of logits is ever held.

The rule is nnU-Net's (Isensee et al., Nature Methods 2021): windows half a patch apart, each weighted by a Gaussian with
its centre on voxel patch // 2 and a sigma of an eighth of the patch; logits averaged over mirrored copies and over
networks. Three things are done in another way, with the same result up to rounding:

* Windows lie on a grid and the Gaussian is a product of three, so the sum of all weights at a voxel is a product of
  three one-dimensional sums. Each window is weighted by its share of that sum: what is added up *is* the weighted
  mean, and neither a volume of weights nor a division is needed.
* Everything is float32. nnU-Net holds weights and sums in float16, where the corners of the Gaussian vanish and are
  set to the smallest number there is; in float32 the smallest weight is 10·exp(-24) and nothing vanishes.
* Windows run along axis 0. Once no later window touches a row it is handed out, and its place is used again.

Where the networks have fewer features than logits, the features before the linear head are averaged in place of the
logits (mean of linear = linear of mean; the weights add up to one, so the bias stays what it is): memory no longer
grows with the number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, islice

import numpy as np
import torch
from torch import Tensor, nn

from autoseg3d.errors import ModelError
from planners.contract import Triple

Progress = Callable[[str, int, int], None]

PEAK_WEIGHT = 10.0
PIECE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class WindowOptions:
    """How windows are laid out and computed.

    patch          size of a window, (z, y, x) in network axes
    step           distance of neighbouring windows as a share of the patch, in (0, 1]
    mirror_axes    axes (0, 1, 2) of which every combination of flips is averaged
    device         where the networks are, and compute
    batch_size     windows per forward pass
    accumulate_on  where the slab is held; `device` where None
    """

    patch: Triple
    step: float = 0.5
    mirror_axes: tuple[int, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 1
    accumulate_on: torch.device | None = None


@dataclass(frozen=True)
class OneHot:
    """Labels of an earlier stage, given to the networks as extra channels, one per entry of `members`.

    labels   (Z, Y, X) integers on the grid of the image: value indices, see LabelTable.value_indices
    members  for each channel the indices that are 1 in it (LabelTable.value_members)
    """

    labels: Tensor
    members: tuple[tuple[int, ...], ...]

    def channels(self, box: tuple[slice, slice, slice]) -> Tensor:
        """(len(members), *box) float32 channels of a part of the image."""
        part = self.labels[box].long()
        return torch.stack([torch.isin(part, torch.tensor(values)).float() for values in self.members])


@dataclass(frozen=True)
class Slab:
    """Finished rows: mean `logits` (K, rows, Y, X) float32 of the rows from `start` on along axis 0.

    The tensor is a view of a buffer that is used again once the next slab is asked for. `of_network(i)`, where the
    networks were asked to be kept apart, gives the logits of one of them in a tensor of its own.
    """

    start: int
    logits: Tensor
    of_network: Callable[[int], Tensor] | None = None


def axis_starts(size: int, patch: int, step: float = 0.5) -> tuple[int, ...]:
    """First voxels of the windows along one axis: ceil((size - patch) / (patch·step)) + 1 of them, evenly spread.

    Where windows would be less than a voxel apart (a patch of one slice), each place is taken once.

    Raises ValueError where the axis is shorter than the patch or step is not in (0, 1].
    """
    if size < patch or not 0 < step <= 1:
        raise ValueError(f"windows need size >= patch and 0 < step <= 1, got size {size}, patch {patch}, step {step}")
    count = math.ceil((size - patch) / (patch * step)) + 1
    distance = (size - patch) / max(count - 1, 1)
    return tuple(sorted({round(distance * i) for i in range(count)}))


def window_starts(shape: Triple, patch: Triple, step: float = 0.5) -> list[Triple]:
    """First voxels (z, y, x) of all windows over a volume not smaller than the patch; z slowest, x fastest."""
    z, y, x = (axis_starts(n, p, step) for n, p in zip(shape, patch, strict=True))
    return [(i, j, k) for i in z for j in y for k in x]


def gaussian_weights(patch: Triple) -> Tensor:
    """Weight of each voxel of a window, (z, y, x) float32: Gaussian of sigma patch / 8 about patch // 2, 10 at its peak."""
    z, y, x = (_gaussian(p) for p in patch)
    return torch.from_numpy((PEAK_WEIGHT * z[:, None, None] * y[:, None] * x).astype(np.float32))


def _gaussian(size: int) -> np.ndarray:
    """One axis of the Gaussian, float64 with peak 1. Four sigma are half a patch, so no voxel is cut off."""
    distance = np.arange(size) - size // 2
    return np.exp(-0.5 * (distance / (size / 8)) ** 2)


def mirror_combinations(axes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """All combinations of flips along `axes`: none, singles, pairs, all three."""
    return tuple(flips for count in range(len(axes) + 1) for flips in combinations(sorted(axes), count))


def uses_features(networks: Sequence[nn.Module], num_classes: int, *, apart: bool = False) -> bool:
    """Whether averaging the networks' features takes less room than averaging `num_classes` logits (of each, if `apart`)."""
    return 0 < _feature_channels(networks) < num_classes * (len(networks) if apart else 1)


def _feature_channels(networks: Sequence[nn.Module]) -> int:
    """Channels of all networks' features together; 0 where one has no linear head to be applied afterwards."""
    heads = [_linear_head(network) for network in networks]
    return sum(head.in_channels for head in heads if head is not None) if all(head is not None for head in heads) else 0


def _linear_head(network: nn.Module) -> nn.Conv3d | None:
    """The 1×1×1 layer that makes a network's logits of its features, None where it has none that this module knows."""
    head = getattr(network, "head", None)
    if not isinstance(head, nn.Module) or not hasattr(network, "features"):
        return None
    layers = [module for module in head.modules() if isinstance(module, nn.Conv3d)]
    return layers[0] if len(layers) == 1 and layers[0].kernel_size == (1, 1, 1) else None


def slab_channels(networks: Sequence[nn.Module], num_classes: int, *, apart: bool = False) -> int:
    """Channels of the slab that `predict_slabs` holds: features or logits, whichever are fewer."""
    if uses_features(networks, num_classes, apart=apart):
        return _feature_channels(networks)
    return num_classes * (len(networks) if apart else 1)


def slab_bytes(shape: Triple, patch: Triple, networks: Sequence[nn.Module], num_classes: int, *, apart: bool = False) -> int:
    """Size of the slab that `predict_slabs` holds for a case of this shape."""
    channels = slab_channels(networks, num_classes, apart=apart)
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
    accumulate = _FeatureMean(networks) if features else _LogitMean(networks, num_classes, apart=apart)
    flips = mirror_combinations(options.mirror_axes)
    slab = _RollingSlab(padded, options, channels=accumulate.channels, rows=rows, scale=1 / (len(flips) * accumulate.averaged))

    def finished(until: int) -> Iterator[Slab]:
        """Hands out the rows up to `until` in pieces small enough for the logits of features, then lets go of them."""
        begin, end = max(slab.first, low[0]), min(until, low[0] + shape[0])
        height = max(1, PIECE_BYTES // (4 * num_classes * (last - first) * shape[2]))
        for row in range(begin, end, height):
            held = slab.rows(row, min(row + height, end))[..., low[2] : low[2] + shape[2]]
            yield Slab(row - low[0], accumulate.logits(held), partial(accumulate.of_network, held) if apart else None)
        if until < padded[0]:
            slab.advance(until)

    remaining, done = iter(starts), 0
    while batch := list(islice(remaining, options.batch_size)):
        windows = torch.stack([_window(image, start, low, options.patch, previous) for start in batch])
        outputs = _forward(accumulate.forward, windows, flips, options)
        for start, output in zip(batch, outputs, strict=True):
            if start[0] > slab.first:
                yield from finished(start[0])
            slab.add(start, output)
        done += len(batch)
        if progress is not None:
            progress("windows", done, len(starts))
    yield from finished(padded[0])


def _window(image: Tensor, start: Triple, low: Triple, patch: Triple, previous: OneHot | None) -> Tensor:
    """(C, *patch) of the padded image, from the image itself: padding is made only where a window reaches into it."""
    shape = image.shape[1:]
    begin = [s - pad for s, pad in zip(start, low, strict=True)]
    z, y, x = (slice(max(b, 0), min(b + p, n)) for b, p, n in zip(begin, patch, shape, strict=True))
    part = image[:, z, y, x]
    if previous is not None:
        part = torch.cat([part, previous.channels((z, y, x))])
    if part.shape[1:] == patch:
        return part
    window = part.new_zeros((part.shape[0], *patch))
    inside = [slice(s.start - b, s.stop - b) for s, b in zip((z, y, x), begin, strict=True)]
    window[:, inside[0], inside[1], inside[2]] = part
    return window


class _LogitMean:
    """Averages the logits of networks, or, kept `apart`, holds them side by side."""

    def __init__(self, networks: Sequence[nn.Module], num_classes: int, *, apart: bool) -> None:
        self._networks, self._classes, self._apart = networks, num_classes, apart
        count = len(networks)
        self.channels, self.averaged = (num_classes * count, 1) if apart else (num_classes, count)

    def forward(self, windows: Tensor) -> Tensor:
        """(B, channels, *patch) logits of all networks, or their sum."""
        if self._apart:
            return torch.cat([network(windows)[0].float() for network in self._networks], dim=1)
        total: Tensor = self._networks[0](windows)[0].float()
        for network in self._networks[1:]:
            total = total + network(windows)[0].float()
        return total

    def logits(self, held: Tensor) -> Tensor:
        """(K, rows, Y, X) mean of the networks' logits."""
        return held.reshape(-1, self._classes, *held.shape[1:]).mean(dim=0) if self._apart else held

    def of_network(self, held: Tensor, index: int) -> Tensor:
        """(K, rows, Y, X) logits of one network."""
        return held[index * self._classes : (index + 1) * self._classes]


class _FeatureMean:
    """Averages what each network has before its linear head, side by side, and applies the heads at the end."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._networks = networks
        heads = [_linear_head(network) for network in networks]
        layers = [head for head in heads if head is not None]
        self.channels, self.averaged = sum(layer.in_channels for layer in layers), 1
        # The mean of all heads is one matrix, (K, channels), and one bias.
        count = len(layers)
        self._layers = layers
        with torch.no_grad():
            self._weight = torch.cat([layer.weight[:, :, 0, 0, 0].float() for layer in layers], dim=1) / count
            biases = [layer.bias.float() for layer in layers if layer.bias is not None]
            self._bias = torch.stack(biases).sum(dim=0) / count if biases else torch.zeros(len(self._weight))
        self._room = torch.empty(0)

    def forward(self, windows: Tensor) -> Tensor:
        """(B, sum of widths, *patch) features of all networks."""
        features = [network.features(windows).float() for network in self._networks]  # type: ignore[operator]
        return features[0] if len(features) == 1 else torch.cat(features, dim=1)

    def logits(self, held: Tensor) -> Tensor:
        """(K, rows, Y, X) mean of the heads over their own features, in a buffer that the next call uses again."""
        columns = held.reshape(len(held), -1)
        needed = len(self._weight) * columns.shape[1]
        if len(self._room) < needed or self._room.device != held.device:
            self._room = held.new_empty(needed)
        result = self._room[:needed].view(len(self._weight), columns.shape[1])
        torch.addmm(self._bias.to(held.device)[:, None], self._weight.to(held.device), columns, out=result)
        _refuse_overflow(result)
        return result.view(len(self._weight), *held.shape[1:])

    def of_network(self, held: Tensor, index: int) -> Tensor:
        """(K, rows, Y, X) logits of one network."""
        layer, first = self._layers[index], sum(other.in_channels for other in self._layers[:index])
        with torch.no_grad():
            weight, part = layer.weight[:, :, 0, 0, 0].float(), held[first : first + layer.in_channels].reshape(layer.in_channels, -1)
            logits = weight.to(held.device) @ part
            if layer.bias is not None:
                logits += layer.bias.float().to(held.device)[:, None]
        return logits.reshape(-1, *held.shape[1:])


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
    _refuse_overflow(total)
    return total.to(options.accumulate_on or options.device)


def _refuse_overflow(values: Tensor) -> None:
    """Raises ModelError where a network's numbers are NaN or infinite: no label can be told from them.

    A sum is finite only where all its terms are, and costs one look at each number.
    """
    if not bool(torch.isfinite(values.sum())):
        raise ModelError(
            "the network gave values that are not finite",
            code="E_NETWORK_NONFINITE",
            remedy="Predict with --precision fp32; if that does not help, the model or the scan's intensities are broken",
        )


class _RollingSlab:
    """The patch[0] rows of axis 0 from `first` on, and rows [rows[0], rows[1]) of axis 1, of a mean in the making."""

    def __init__(self, padded: Triple, options: WindowOptions, *, channels: int, rows: tuple[int, int], scale: float) -> None:
        self.first = 0
        self._patch, self._rows = options.patch, rows
        device = options.accumulate_on or options.device
        self._buffer = torch.zeros((channels, options.patch[0], rows[1] - rows[0], padded[2]), device=device)
        self._shares = [_shares(n, p, options.step, device=device) for n, p in zip(padded, options.patch, strict=True)]
        self._shares[0] = {start: share * scale for start, share in self._shares[0].items()}

    def add(self, start: Triple, output: Tensor) -> None:
        """Adds a window's output (channels, *patch), weighted by its share at every voxel."""
        z, y, x = start
        begin, end = max(y, self._rows[0]), min(y + self._patch[1], self._rows[1])
        inside = slice(begin - y, end - y)
        share_z, share_y, share_x = (shares[s] for shares, s in zip(self._shares, start, strict=True))
        weight = share_z[:, None, None] * share_y[inside, None] * share_x
        depth = slice(z - self.first, z - self.first + self._patch[0])
        target = self._buffer[:, depth, begin - self._rows[0] : end - self._rows[0], x : x + self._patch[2]]
        target.addcmul_(output[:, :, inside], weight)

    def rows(self, begin: int, end: int) -> Tensor:
        """A view of rows [begin, end) of axis 0."""
        return self._buffer[:, begin - self.first : end - self.first]

    def advance(self, first: int) -> None:
        """Lets go of all rows before `first`: the rest moves to the front, block by block so that none overlap."""
        shift, height = first - self.first, self._buffer.shape[1]
        for row in range(0, height - shift, shift):
            end = min(row + shift, height - shift)
            self._buffer[:, row:end] = self._buffer[:, row + shift : end + shift]
        self._buffer[:, max(height - shift, 0) :] = 0
        self.first = first


def _shares(size: int, patch: int, step: float, *, device: torch.device) -> dict[int, Tensor]:
    """For each window along one axis, its share of all windows' weights at each of its voxels, float32."""
    weight, starts = _gaussian(patch), axis_starts(size, patch, step)
    total = np.zeros(size)
    for start in starts:
        total[start : start + patch] += weight
    return {start: torch.from_numpy((weight / total[start : start + patch]).astype(np.float32)).to(device) for start in starts}
