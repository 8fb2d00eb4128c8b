"""Predictor: trained networks, made ready once, that turn cases into label maps on the scan's own grid."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from autoseg3d.case import Case, Placement
from autoseg3d.devices import choose_device
from autoseg3d.errors import ModelError, UsageError
from autoseg3d.networks import build
from autoseg3d.ops.labelling import GridMap, grid_map, label_slabs, output_dtype
from autoseg3d.ops.resampling import separate_axis
from autoseg3d.package import ModelPackage
from autoseg3d.package.card import scores_of
from autoseg3d.package.manifest import CROSS_VALIDATION_FOLDS
from autoseg3d.prediction.precision import DTYPES, Precision, bears_bfloat16, measure_agreement, ready
from autoseg3d.preprocessing import WorkingCase, preprocess
from autoseg3d.sliding_window import OneHot, Slab, WindowOptions, mirror_combinations, predict_slabs, slab_bytes, window_starts
from planners.plan import Plan

Progress = Callable[[str, int, int], None]
LogitsSink = Callable[[int, slice, Tensor], None]

SLAB_LIMIT_BYTES = 2 * 2**30
_GPU_BATCH_VOXELS = 4 * 2**20
_LARGEST_BATCH = 16
# A self-test costs about one and a half forward passes, and saves half of each that follows.
_WORTH_A_TEST = 8


@dataclass(frozen=True)
class Prediction:
    """A predicted case.

    labels     (Z, Y, X) uint8 or uint16 on the grid of the case
    precision  "fp32" or "bf16", as it was computed
    device     where it was computed
    agreement  what the self-test of bfloat16 on this case gave, None where none was made
    seconds    wall-clock time of "network" and "export"
    notes      what went another way than asked for
    """

    labels: np.ndarray
    precision: str
    device: str
    agreement: float | None
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A case as the networks take it: the working case and, for a cascade, the labels of the stage before."""

    working: WorkingCase
    previous: OneHot | None = None


@dataclass(frozen=True)
class Attempt:
    """One way to compute a case: the device, the windows per batch, and where the slab is held."""

    device: torch.device
    batch_size: int
    accumulate_on: torch.device


class Predictor:
    """Networks of one configuration, fused by the mean of their logits.

    Args:
        plan: the plan they were trained with.
        configuration: its configuration.
        networks: one or more, meeting the contract of a network; copied, not changed.
        device: where to compute.
        precision: "auto" takes bfloat16 where the device is fast in it and `bf16_agreement`, or a self-test on the
            case itself, shows that foreground labels stay what they are.
        mirror: average over flips along the plan's mirror axes.
        step: distance of windows as a share of the patch.
        slab_limit_bytes: bound of the accumulated slab; a larger one is computed in bands along axis 1.
        bf16_agreement: what the self-test of training gave.
        previous: the predictor of the configuration's previous stage, where it has one.
    """

    def __init__(
        self,
        plan: Plan,
        configuration: str,
        networks: Sequence[nn.Module],
        *,
        device: torch.device | str = "auto",
        precision: Precision = "auto",
        mirror: bool = True,
        step: float = 0.5,
        slab_limit_bytes: int = SLAB_LIMIT_BYTES,
        bf16_agreement: float | None = None,
        previous: Predictor | None = None,
    ) -> None:
        if not 0 < step <= 1:
            raise UsageError("the step of windows is a share of their size", field="step", wanted="more than 0, at most 1", got=step)
        self.plan, self.name = plan, configuration
        self.configuration = plan.configurations[configuration]
        self.device = choose_device(device) if isinstance(device, str) else device
        self.precision, self.mirror, self.step = precision, mirror, step
        self.slab_limit_bytes, self.bf16_agreement = slab_limit_bytes, bf16_agreement
        self.previous = previous
        self._networks = tuple(networks)
        self._ready: dict[tuple[str, torch.device], tuple[nn.Module, ...]] = {}
        if not networks or (previous is None) != (self.configuration.previous_stage is None):
            raise ValueError(f"{configuration} needs networks, and a predictor of its previous stage just where it has one")

    @classmethod
    def from_package(
        cls,
        package: ModelPackage,
        configuration: str | None = None,
        folds: Sequence[str] | None = None,
        *,
        device: torch.device | str = "auto",
        precision: Precision = "auto",
        mirror: bool = True,
        step: float = 0.5,
        slab_limit_bytes: int = SLAB_LIMIT_BYTES,
    ) -> Predictor:
        """The predictor of a package: its default configuration and all folds there are, where none are named.

        Raises ModelError where there is no trained fold, or weights do not fit the plan's network.
        """
        name = choose_configuration(package, configuration)
        chosen = choose_folds(package, name, folds)
        stage, previous = package.plan.configurations[name].previous_stage, None
        options = {"device": device, "precision": precision, "mirror": mirror, "step": step, "slab_limit_bytes": slab_limit_bytes}
        if stage is not None:
            there = [fold for fold in chosen if fold in package.folds(stage)]
            previous = cls.from_package(package, stage, there or None, **options)  # type: ignore[arg-type]
        networks = [load_network(package, name, fold) for fold in chosen]
        agreements = [scores_of(package.fold(name, fold), "bf16_agreement") for fold in chosen]
        known = [value for value in agreements if value is not None]
        return cls(
            package.plan,
            name,
            networks,
            previous=previous,
            bf16_agreement=min(known) if len(known) == len(agreements) else None,
            **options,  # type: ignore[arg-type]
        )

    def predict(self, case: Case, *, progress: Progress | None = None) -> Prediction:
        """Labels of a case on its own grid; whatever labels the case has are not looked at."""
        return self.run(self.prepare(case, progress=progress), progress=progress)

    def predict_working(self, working: WorkingCase, *, progress: Progress | None = None) -> np.ndarray:
        """Labels (Z, Y, X) on the scan's own grid of a case that is preprocessed already.

        For a cascade its image must end in the one-hot channels of the previous stage.
        """
        return self.run(Prepared(working), progress=progress).labels

    def prepare(self, case: Case, *, progress: Progress | None = None) -> Prepared:
        """Everything up to the network: preprocessing, and in a cascade the prediction of the previous stage."""
        if self.previous is None:
            return Prepared(preprocess(replace(case, labels=None), self.plan, self.name))
        first = self.previous.predict(case, progress=progress)
        working = preprocess(replace(case, labels=first.labels), self.plan, self.name)
        assert working.labels is not None
        return Prepared(working, OneHot(torch.from_numpy(working.labels), self.plan.labels.class_members))

    def run(self, prepared: Prepared, *, on_logits: LogitsSink | None = None, progress: Progress | None = None) -> Prediction:
        """Labels of a prepared case on the scan's own grid.

        `on_logits`, where given, gets every row of the cropped scan: its number along axis 0, the part of axis 1, and
        the mean logits (classes, Y', X') on the scan's grid (turned and cropped as Placement says).

        Where the device runs out of memory the case is computed again with one window at a time, then with the slab
        on the CPU, then wholly on the CPU; labels stay the same up to rounding, and a note says so.
        """
        notes: list[str] = []
        *attempts, last = self._attempts()
        for attempt in attempts:
            try:
                return replace(self._run(prepared, attempt, on_logits, progress), notes=tuple(notes))
            except torch.OutOfMemoryError as error:
                notes.append(f"{attempt.device} ran out of memory with {attempt.batch_size} windows at a time: {_first_line(error)}")
            except torch.AcceleratorError as error:
                notes.append(f"{attempt.device} failed: {_first_line(error)}")
                break
            # Outside the except block, since the traceback keeps what the failed attempt held.
            if attempt.device.type != "cpu":
                torch.accelerator.empty_cache()
        return replace(self._run(prepared, last, on_logits, progress), notes=tuple(notes))

    def _attempts(self) -> list[Attempt]:
        cpu = torch.device("cpu")
        if self.device.type == "cpu":
            return [Attempt(cpu, 1, cpu)]
        fitting = _GPU_BATCH_VOXELS // math.prod(self.configuration.patch_size)
        batch = max(1, min(_LARGEST_BATCH, fitting))
        return [
            Attempt(self.device, batch, self.device),
            Attempt(self.device, 1, self.device),
            Attempt(self.device, 1, cpu),
            Attempt(cpu, 1, cpu),
        ]

    def _run(self, prepared: Prepared, attempt: Attempt, on_logits: LogitsSink | None, progress: Progress | None) -> Prediction:
        working, labels = prepared.working, self.plan.labels
        image = torch.from_numpy(working.image)
        precision, agreement = self._choose_precision(image, prepared, attempt.device)
        networks = self._networks_for(precision, attempt.device)
        placement = working.placement
        native = np.zeros(placement.native.shape, dtype=output_dtype(labels))
        cropped = placement.crop(native)
        grid = grid_map(placement.working_shape, placement.cropped_shape, separate=self._separate(placement))
        seconds = {"network": 0.0, "export": 0.0}
        options = self._window_options(attempt)
        bands = self._bands(grid, placement.working_shape, networks)
        for i, (start, stop) in enumerate(bands):
            part, band = grid.band(start, stop)
            report = _share_of(progress, i, len(bands))
            slabs = predict_slabs(
                image, networks, options, num_classes=labels.num_classes, band=band, previous=prepared.previous, progress=report
            )
            sink = None if on_logits is None else _band_sink(on_logits, slice(start, stop))
            begun = time.perf_counter()
            label_slabs(_timed(slabs, seconds), cropped[:, start:stop], grid=part, labels=labels, on_logits=sink)
            seconds["export"] += time.perf_counter() - begun
        seconds["export"] -= seconds["network"]
        return Prediction(native, precision, str(attempt.device), agreement, seconds)

    def _separate(self, placement: Placement) -> int | None:
        """The axis along which logits are not interpolated; slices of a slicewise configuration keep their own spacing."""
        spacing = self.configuration.spacing_mm
        if self.configuration.slicewise:
            spacing = (placement.spacing_mm[0], spacing[1], spacing[2])
        return separate_axis(spacing, placement.spacing_mm)

    def _window_options(self, attempt: Attempt) -> WindowOptions:
        return WindowOptions(
            patch=self.configuration.patch_size,
            step=self.step,
            mirror_axes=self._mirror_axes(),
            device=attempt.device,
            batch_size=attempt.batch_size,
            accumulate_on=attempt.accumulate_on,
        )

    def _mirror_axes(self) -> tuple[int, ...]:
        """The plan's axes, without the axis that a slicewise network never sees."""
        if not self.mirror:
            return ()
        return tuple(axis for axis in self.plan.mirror_axes if not (self.configuration.slicewise and axis == 0))

    def _bands(self, grid: GridMap, working_shape: tuple[int, int, int], networks: Sequence[nn.Module]) -> list[tuple[int, int]]:
        """Parts of axis 1 of the cropped scan, so many that the slab of each stays within its limit."""
        needed = slab_bytes(working_shape, self.configuration.patch_size, networks, self.plan.labels.num_classes)
        rows = grid.shape[1]
        count = min(rows, working_shape[1], math.ceil(needed / self.slab_limit_bytes))
        edges = [round(rows * i / count) for i in range(count + 1)]
        return list(pairwise(edges))

    def _choose_precision(self, image: Tensor, prepared: Prepared, device: torch.device) -> tuple[str, float | None]:
        """The precision to compute in, and the agreement that a self-test gave."""
        if self.precision != "auto":
            return self.precision, None
        known = bears_bfloat16(self.bf16_agreement, device)
        if known is not None:
            return "bf16" if known else "fp32", None
        if prepared.previous is not None or self._forward_passes(image) < _WORTH_A_TEST:
            return "fp32", None
        measured = measure_agreement(
            image,
            self._networks_for("fp32", device),
            self._networks_for("bf16", device),
            patch=self.configuration.patch_size,
            num_classes=self.plan.labels.num_classes,
            regions=self.plan.labels.has_regions,
            device=device,
        )
        return "bf16" if measured is not None and bears_bfloat16(measured, device) else "fp32", measured

    def _forward_passes(self, image: Tensor) -> int:
        """Windows of a case times their mirrored copies."""
        patch = self.configuration.patch_size
        padded = (max(image.shape[1], patch[0]), max(image.shape[2], patch[1]), max(image.shape[3], patch[2]))
        return len(window_starts(padded, patch, self.step)) * len(mirror_combinations(self._mirror_axes()))

    def _networks_for(self, precision: str, device: torch.device) -> tuple[nn.Module, ...]:
        key = (precision, device)
        if key not in self._ready:
            self._ready[key] = ready(self._networks, DTYPES[precision], device)
        return self._ready[key]


def choose_configuration(package: ModelPackage, wanted: str | None) -> str:
    """The wanted configuration, else the plan's default where it is trained, else the first that is. Raises ModelError."""
    trained = package.configurations
    if wanted is None and trained:
        default = package.plan.configuration()[0]
        return default if default in trained else trained[0]
    if wanted is None or wanted not in trained:
        raise ModelError(
            "the model has no trained network to predict with" if wanted is None else "the model has no such trained configuration",
            code="E_MODEL_FOLD",
            file=package.location,
            wanted=wanted or "at least one trained fold",
            got=", ".join(trained) or "none",
            remedy="Train a fold first, or choose among the trained ones",
        )
    return wanted


def choose_folds(package: ModelPackage, configuration: str, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The wanted folds, else all of cross-validation that are trained, else "full". Raises ModelError for one not there."""
    if wanted:
        return tuple(package.fold(configuration, fold).fold for fold in dict.fromkeys(wanted))
    there = package.folds(configuration)
    return tuple(fold for fold in there if fold != "full") or there


def missing_folds(package: ModelPackage, configuration: str, chosen: Sequence[str]) -> tuple[str, ...]:
    """Folds of a five-fold cross-validation that are not trained, where a prediction fuses folds at all."""
    if "full" in chosen:
        return ()
    there = package.folds(configuration)
    return tuple(fold for fold in CROSS_VALIDATION_FOLDS if fold not in there)


def load_network(package: ModelPackage, configuration: str, fold: str) -> nn.Module:
    """The network of one fold in evaluation mode. Raises ModelError where its weights do not fit the plan."""
    plan = package.plan
    network = build(plan.configurations[configuration].network, plan.in_channels(configuration), plan.labels.num_classes)
    try:
        network.load_state_dict(package.load_weights(configuration, fold))
    except RuntimeError as error:
        raise ModelError(
            f"the weights do not fit the plan's network: {' '.join(str(error).split())[:500]}",
            code="E_MODEL_WEIGHTS",
            file=package.location,
            field=package.fold(configuration, fold).file,
            remedy="Train the fold again with this plan",
        ) from error
    return network.eval()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _timed(slabs: Iterator[Slab], seconds: dict[str, float]) -> Iterator[tuple[int, Tensor]]:
    """The slabs, with the time it took to make them added to seconds["network"]."""
    while True:
        begun = time.perf_counter()
        slab = next(slabs, None)
        seconds["network"] += time.perf_counter() - begun
        if slab is None:
            return
        yield slab.start, slab.logits


def _band_sink(on_logits: LogitsSink, part: slice) -> Callable[[int, Tensor], None]:
    return lambda row, logits: on_logits(row, part, logits)


def _share_of(progress: Progress | None, index: int, count: int) -> Progress | None:
    """Progress of one band as progress of the case, in per mille, since bands differ in their number of windows."""
    if progress is None or count == 1:
        return progress
    return lambda what, done, total: progress(what, round(1000 * (index + done / total) / count), 1000)
