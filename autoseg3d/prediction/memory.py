"""What a prediction on a CPU will take in memory, told beforehand, and the choices that keep it within a bound.

The peak is that of the largest step: reading, preparing, or the networks with the slab that they fill. What every step
holds is known from shapes; what a network needs for a window is traced (`autoseg3d.cost`). The process before the case
(interpreter, libraries, loaded weights) is measured, not forecast.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

import psutil

from autoseg3d.case import Case, Placement
from autoseg3d.cost.inference import inference_bytes
from autoseg3d.errors import UsageError
from autoseg3d.ops.labelling import output_dtype
from autoseg3d.prediction.precision import DTYPES
from autoseg3d.prediction.predictor import Predictor
from autoseg3d.preprocessing.working_case import place_case
from autoseg3d.sliding_window import PIECE_BYTES, mirror_combinations, slab_bytes, slab_channels
from planners.contract import Contract

# A file's voxels as stored, while float32 is made of them.
_STORED_BYTES = 4
# The heap's gaps and what libraries keep beyond their tensors, as a share of what is held; see benchmarks/memory.py.
_GAPS = 0.05
_LIBRARIES = 100 * 2**20
# Rows of the scan's grid with all classes, several at a time, where probabilities are asked for.
_FULL_ROWS = 5
# A slab narrower than this share of the patch would compute most windows many times over.
_NARROWEST = 0.25


class MemoryForecast(Contract):
    """Forecast of a case's peak memory in bytes: the process before it, and what each step adds.

    base      measured before the case: interpreter, libraries, weights
    beside    for the next case, which is read at the same time
    choices   what was done to stay within the bound
    """

    base: int
    read: int
    prepare: int
    network: int
    beside: int = 0
    choices: tuple[str, ...] = ()

    @property
    def peak(self) -> int:
        """The largest that the process will be."""
        return self.base + max(self.read, self.prepare, self.network + self.beside)


def forecast_reading(shape: Sequence[int], channels: int) -> int:
    """Bytes that reading a scan of this shape takes: the image, and one file's stored voxels."""
    voxels = math.prod(shape)
    return _with_gaps(voxels * (4 * channels + _STORED_BYTES))


def forecast(
    case: Case, predictors: Sequence[Predictor], *, base: int, slab_limit_bytes: int, apart: bool = False, full_rows: bool = False
) -> MemoryForecast:
    """The forecast of a case that has been read.

    Args:
        predictors: that will compute it, side by side.
        base: memory of the process before the case was read.
        slab_limit_bytes: bound of all their slabs together.
        apart: whether the folds' own answers are kept.
        full_rows: whether probabilities are asked for.
    """
    placements = [place_case(case, predictor.plan, predictor.configuration) for predictor in predictors]
    channels, native = len(case.image), math.prod(case.geometry.shape)
    image = 4 * channels * native
    working = [4 * channels * math.prod(placement.working_shape) for placement in placements]
    preparing = [4 * channels * math.prod(p.cropped_shape) + _resizing(p, channels) for p in placements]
    held = [sum(working[:i]) for i in range(len(working))]
    labels = native * output_dtype(predictors[0].plan.labels)().itemsize
    slabs = sum(min(_slab(p, q, apart=apart), slab_limit_bytes // len(predictors)) for p, q in zip(predictors, placements, strict=True))
    windows = [_window(predictor) for predictor in predictors]
    kept_weights = sum(_weights(predictor) for predictor in predictors)
    rows = max(_rows(p, q) for p, q in zip(predictors, placements, strict=True)) * (_FULL_ROWS if full_rows else 1)
    return MemoryForecast(
        base=base,
        read=forecast_reading(case.geometry.shape, channels),
        prepare=_with_gaps(image + max(a + b for a, b in zip(held, preparing, strict=True))),
        network=_with_gaps(sum(working) + labels + slabs + max(windows) + kept_weights + rows + 3 * PIECE_BYTES) + _LIBRARIES,
    )


def keep_within(
    limit: int,
    case: Case,
    predictors: Sequence[Predictor],
    *,
    base: int,
    slab_limit_bytes: int,
    apart: bool = False,
    full_rows: bool = False,
) -> tuple[MemoryForecast, int]:
    """(forecast, bound of the slabs) that stay within `limit` bytes.

    Raises UsageError (E_MAX_MEMORY), saying what is needed, where no choice does.
    """
    told = forecast(case, predictors, base=base, slab_limit_bytes=slab_limit_bytes, apart=apart, full_rows=full_rows)
    if told.peak <= limit:
        return told, slab_limit_bytes
    placements = [place_case(case, predictor.plan, predictor.configuration) for predictor in predictors]
    whole = [_slab(p, q, apart=apart) for p, q in zip(predictors, placements, strict=True)]
    narrowest = max(math.ceil(_narrowest(p, q) * size) for p, q, size in zip(predictors, placements, whole, strict=True)) * len(whole)
    without = forecast(case, predictors, base=base, slab_limit_bytes=0, apart=apart, full_rows=full_rows)
    room = int((limit - base - without.network) / (1 + _GAPS))
    needed = max(without.peak, base + without.network + _with_gaps(narrowest))
    if room < narrowest or without.peak > limit:
        raise too_little(limit, needed, case.id)
    bound = min(room, slab_limit_bytes)
    choice = f"the slab is held in bands of at most {bound / 2**20:.0f} MiB"
    told = forecast(case, predictors, base=base, slab_limit_bytes=bound, apart=apart, full_rows=full_rows)
    return told.model_copy(update={"choices": (choice,)}), bound


def too_little(limit: int, needed: int, case: str) -> UsageError:
    """The error of a bound that cannot be kept."""
    return UsageError(
        "this scan cannot be predicted within so little memory",
        code="E_MAX_MEMORY",
        case=case,
        field="max-memory",
        wanted=f"at least {needed / 2**30:.2f} GB",
        got=f"{limit / 2**30:.2f} GB",
        remedy="Give more with --max-memory, or use fewer folds or models",
    )


def resident_bytes() -> int:
    """Memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def forget_peak() -> bool:
    """Lets the high-water mark of this process begin anew, so that a case's own peak can be told; whether the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def _resizing(placement: Placement, channels: int) -> int:
    """The resized image, and one channel resized along some axes only; nothing where sizes are equal."""
    source, target = placement.cropped_shape, placement.working_shape
    if source == target:
        return 0
    between = (target[0], *source[1:]) if target[0] < source[0] else (source[0], *target[1:])
    equal = source[0] == target[0]
    return 4 * channels * math.prod(target) + (0 if equal else 4 * math.prod(between))


def _slab(predictor: Predictor, placement: Placement, *, apart: bool) -> int:
    return slab_bytes(
        placement.working_shape,
        predictor.configuration.patch_size,
        predictor.networks,
        predictor.plan.labels.num_classes,
        apart=apart and len(predictor.networks) > 1,
        half_weights=predictor.plan.window_weights == "float16",
    )


def _narrowest(predictor: Predictor, placement: Placement) -> float:
    """The smallest share of a slab's width that is worth computing."""
    patch, shape = predictor.configuration.patch_size, placement.working_shape
    return min(1.0, _NARROWEST * patch[1] / max(shape[1], patch[1]))


def _window(predictor: Predictor) -> int:
    """Peak of one forward pass of a network, and what is added up beside it."""
    classes = predictor.plan.labels.num_classes
    channels = slab_channels(predictor.networks, classes)
    patch = predictor.configuration.patch_size
    pass_bytes = inference_bytes(
        predictor.networks[0],
        in_channels=predictor.plan.in_channels(predictor.name),
        patch_size=patch,
        dtype=DTYPES["fp32" if predictor.precision == "auto" else predictor.precision],
        features=channels != classes,
    )
    # A network's answer in float32 and the sum over mirrored copies, while the next copy is computed.
    sums = 2 if len(mirror_combinations(predictor.plan.mirror_axes)) > 1 and predictor.mirror else 1
    return pass_bytes + 4 * sums * channels * math.prod(patch)


def _weights(predictor: Predictor) -> int:
    """Copies of the weights that are made ready to predict."""
    return sum(4 * parameter.numel() for network in predictor.networks for parameter in network.parameters())


def _rows(predictor: Predictor, placement: Placement) -> int:
    """Two working rows and one row of the scan, all classes."""
    classes = predictor.plan.labels.num_classes
    return 4 * classes * (2 * math.prod(placement.working_shape[1:]) + math.prod(placement.cropped_shape[1:]))


def _with_gaps(held: int) -> int:
    return int(held * (1 + _GAPS))
