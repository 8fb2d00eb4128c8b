"""Predictor: trained networks, made ready once, that turn cases into label maps on the scan's own grid."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from autoseg3d.case import Case, Placement, place
from autoseg3d.devices import fast_bfloat16
from autoseg3d.errors import ModelError, UsageError
from autoseg3d.geometry import Geometry
from autoseg3d.networks import build, build_empty
from autoseg3d.ops.labelling import grid_map
from autoseg3d.ops.resampling import separate_axis
from autoseg3d.package import ModelPackage
from autoseg3d.package.card import scores_of
from autoseg3d.package.manifest import CROSS_VALIDATION_FOLDS
from autoseg3d.prediction.attempts import Attempt, attempts_on
from autoseg3d.prediction.backends import Backend, device_for, ready_networks
from autoseg3d.prediction.body import Crop, find_body
from autoseg3d.prediction.computation import Computation
from autoseg3d.prediction.precision import DTYPES, Choice, Precision, expected_agreement, measure_agreement
from autoseg3d.prediction.running import Prediction, run_members
from autoseg3d.preprocessing import WorkingCase, preprocess
from autoseg3d.sliding_window import OneHot, WindowOptions, mirror_combinations, window_starts
from planners.plan import Plan

Progress = Callable[[str, int, int], None]

SLAB_LIMIT_BYTES = 2 * 2**30
# A self-test costs about one and a half windows, and saves half of each that follows.
_WORTH_A_TEST = 6
# Slices of a slicewise configuration that a self-test looks at; one may be empty.
_SLICES = 16


@dataclass(frozen=True)
class Prepared:
    """A case as the networks take it: the working case and, for a cascade, the labels of the stage before."""

    working: WorkingCase
    previous: OneHot | None = None


class Predictor:
    """Networks of one configuration, fused by the mean of their logits.

    Args:
        plan: the plan they were trained with.
        configuration: its configuration.
        networks: one or more, meeting the contract of a network; copied, not changed.
        device: where to compute.
        precision: "auto" takes bfloat16 where the device is fast in it and `bf16_agreement`, or a self-test on the
            first case that comes, shows that foreground labels stay what they are.
        mirror: average over flips along the plan's mirror axes.
        step: distance of windows as a share of the patch.
        slab_limit_bytes: bound of the accumulated slab; a larger one is computed in bands along axis 1.
        bf16_agreement: what the self-test of training gave.
        previous: the predictor of the configuration's previous stage, where it has one.
        backend: what computes the layers; "openvino" only on a CPU, and with its extra installed.
        crop: "body" computes only a box around the body, where the first channel is CT.
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
        backend: Backend = "torch",
        crop: Crop = "none",
    ) -> None:
        if not 0 < step <= 1:
            raise UsageError("the step of windows is a share of their size", field="step", wanted="more than 0, at most 1", got=step)
        if crop == "body" and plan.configurations[configuration].normalization[0] != "ct":
            got = plan.configurations[configuration].normalization[0]
            raise UsageError("the body is told from air by the intensities of CT", field="crop", wanted="a model of CT", got=got)
        self.plan, self.name = plan, configuration
        self.configuration = plan.configurations[configuration]
        self.backend, self.device = backend, device_for(backend, device)
        self.precision, self.mirror, self.step = precision, mirror, step
        self.slab_limit_bytes, self.bf16_agreement = slab_limit_bytes, bf16_agreement
        self.previous, self.crop = previous, crop
        self._networks = tuple(networks)
        self._ready: dict[tuple[str, torch.device], tuple[nn.Module, ...]] = {}
        self._chosen: dict[str, Choice] = {}
        self._expected = 1
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
        backend: Backend = "torch",
        crop: Crop = "none",
    ) -> Predictor:
        """The predictor of a package: its default configuration and all folds there are, where none are named.

        Raises ModelError where there is no trained fold, or weights do not fit the plan's network.
        """
        name = choose_configuration(package, configuration)
        chosen = choose_folds(package, name, folds)
        stage, previous = package.plan.configurations[name].previous_stage, None
        options = {"device": device, "precision": precision, "mirror": mirror, "step": step, "slab_limit_bytes": slab_limit_bytes}
        options |= {"backend": backend, "crop": crop}
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
        return Prepared(working, OneHot(torch.from_numpy(working.labels), self.plan.labels.value_members))

    def run(self, prepared: Prepared, *, apart: bool = False, progress: Progress | None = None) -> Prediction:
        """Labels of a prepared case on the scan's own grid; see `run_members`, which does the same for several predictors."""
        return run_members([self], [prepared], apart=apart, progress=progress)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks it was made of, one per fold."""
        return self._networks

    def variant(
        self, *, mirror: bool | None = None, step: float | None = None, folds: int | None = None, slab_limit_bytes: int | None = None
    ) -> Predictor:
        """The same predictor with other settings, or only its first `folds` networks; None leaves a setting as it is.

        Weights are shared. In a cascade the previous stage stays as it is.
        """
        other = copy.copy(self)
        other.mirror = self.mirror if mirror is None else mirror
        other.step = self.step if step is None else step
        other.slab_limit_bytes = slab_limit_bytes or self.slab_limit_bytes
        if folds is not None and folds < len(self._networks):
            other._networks = self._networks[:folds]
            other._ready = {key: networks[:folds] for key, networks in self._ready.items()}
        if (other.mirror, other.step, len(other._networks)) != (self.mirror, self.step, len(self._networks)):
            other._chosen = {}  # what one way of computing bears says nothing about another
        return other

    def middle(self, prepared: Prepared, *, slices: int = 1) -> Prepared:
        """One window in the middle of a prepared case, as a case of its own; at least `slices` deep where there are so many."""
        working, patch = prepared.working, (max(self.configuration.patch_size[0], slices), *self.configuration.patch_size[1:])
        starts = [max(0, (n - p) // 2) for n, p in zip(working.image.shape[1:], patch, strict=True)]
        z, y, x = (slice(s, s + p) for s, p in zip(starts, patch, strict=True))
        image = np.ascontiguousarray(working.image[:, z, y, x])
        shape = (image.shape[1], image.shape[2], image.shape[3])
        geometry = Geometry.from_affine(shape, np.eye(4))
        inside = place(
            geometry, self.plan.model_copy(update={"orientation": "as-stored", "axis_order": (0, 1, 2)}), ((0, 0, 0), shape), shape
        )
        previous = None if prepared.previous is None else replace(prepared.previous, labels=prepared.previous.labels[z, y, x])
        return Prepared(replace(working, image=image, placement=inside), previous)

    def attempts(self) -> list[Attempt]:
        """Ways to compute a case, to be tried in turn where memory runs out."""
        return attempts_on(self.device, math.prod(self.configuration.patch_size))

    def computation(self, prepared: Prepared, attempt: Attempt, *, apart: bool = False) -> Computation:
        """A prepared case, set up to be computed in the way of `attempt`."""
        placement = prepared.working.placement
        image = torch.from_numpy(prepared.working.image)
        chosen = self._choose_precision(prepared, attempt.device)
        return Computation(
            image=image,
            networks=self._networks_for(chosen.precision, attempt.device),
            options=self._window_options(attempt),
            labels=self.plan.labels,
            grid=grid_map(placement.working_shape, placement.cropped_shape, separate=self._separate(placement)),
            placement=placement,
            precision=chosen.precision,
            slab_limit_bytes=max(1, self.slab_limit_bytes // attempt.frugal),
            previous=prepared.previous,
            agreement=chosen.agreement,
            apart=apart and len(self._networks) > 1,
            body=find_body(prepared.working.image, self.configuration.patch_size, step=self.step) if self.crop == "body" else None,
        )

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
            half_weights=self.plan.window_weights == "float16",
        )

    def _mirror_axes(self) -> tuple[int, ...]:
        """The plan's axes, without the axis that a slicewise network never sees."""
        if not self.mirror:
            return ()
        return tuple(axis for axis in self.plan.mirror_axes if not (self.configuration.slicewise and axis == 0))

    def adopt(self, precision: str, agreement: float | None) -> None:
        """Takes over what "auto" chose for earlier scans of the same batch, so that all of them are computed alike."""
        if self.precision == "auto" and precision in DTYPES:
            self._chosen = {self.device.type: Choice(precision, agreement)}

    def expect(self, cases: int) -> None:
        """Says how many cases are to come: a self-test must be worth its time."""
        self._expected = cases

    def _choose_precision(self, prepared: Prepared, device: torch.device) -> Choice:
        """The precision to compute in: the first case that comes decides for all."""
        if self.precision != "auto":
            return Choice(self.precision)
        if not fast_bfloat16(device.type):
            return Choice("fp32")
        if device.type not in self._chosen:
            recorded = self.bf16_agreement if self.mirror else None  # it was measured with mirrored copies
            self._chosen[device.type] = Choice.by(self.self_test(prepared, device) if recorded is None else recorded)
            self._ready.pop(("fp32" if self._chosen[device.type].precision == "bf16" else "bf16", device), None)
        return self._chosen[device.type]

    def self_test(self, prepared: Prepared, device: torch.device | None = None) -> float | None:
        """Agreement of bfloat16 with float32 in the middle of a case; see `measure_agreement`.

        First without mirrored copies, an eighth of the work, from which `expected_agreement` is told. Only where that is not
        enough, but twice the gain that theory promises would be, are the copies computed.

        None where there is no foreground, the device has no fast bfloat16, or the cases expected are not worth its time.
        """
        device = device or self.device
        if not fast_bfloat16(device.type) or self._expected * self.windows(prepared) < _WORTH_A_TEST:
            return None
        sample, copied = self.middle(prepared, slices=_SLICES), self._window_options(Attempt(device, 1, device))
        alone = self._agreement(sample, replace(copied, mirror_axes=()))
        if alone is None or not copied.mirror_axes:
            return alone
        copies = len(mirror_combinations(copied.mirror_axes))
        expected, hoped_for = expected_agreement(alone, copies), 1 - (1 - alone) / (2 * math.sqrt(copies))
        settled = Choice.by(expected).precision == "bf16" or Choice.by(hoped_for).precision == "fp32"
        return expected if settled else self._agreement(sample, copied)

    def _agreement(self, sample: Prepared, options: WindowOptions) -> float | None:
        return measure_agreement(
            torch.from_numpy(sample.working.image),
            self._networks_for("fp32", options.device),
            self._networks_for("bf16", options.device),
            options=options,
            num_classes=self.plan.labels.num_classes,
            regions=self.plan.labels.has_regions,
            previous=sample.previous,
        )

    def windows(self, prepared: Prepared) -> int:
        """Windows of a case."""
        shape, patch = prepared.working.image.shape, self.configuration.patch_size
        padded = (max(shape[1], patch[0]), max(shape[2], patch[1]), max(shape[3], patch[2]))
        return len(window_starts(padded, patch, self.step))

    def forward_passes(self, prepared: Prepared) -> int:
        """Windows of a case times their mirrored copies."""
        return self.windows(prepared) * len(mirror_combinations(self._mirror_axes()))

    def _networks_for(self, precision: str, device: torch.device) -> tuple[nn.Module, ...]:
        key = (precision, device)
        if key not in self._ready:
            channels, patch = self.plan.in_channels(self.name), self.configuration.patch_size
            self._ready[key] = ready_networks(
                self._networks, backend=self.backend, dtype=DTYPES[precision], device=device, channels=channels, patch=patch
            )
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
    plan, weights = package.plan, package.load_weights(configuration, fold)
    table = (plan.configurations[configuration].network, plan.in_channels(configuration), plan.labels.num_classes)
    try:
        # Without memory of its own: a plan may claim a network that no machine could hold.
        network = build_empty(*table)
        network.load_state_dict(weights, assign=True)
    except UsageError as error:
        raise ModelError(
            f"the model's network cannot be built: {error.what}",
            code="E_MODEL_NETWORK",
            file=package.location,
            field=f"{configuration}.{error.field}",
            wanted=error.wanted,
            got=error.got,
            remedy="Install the package that brings it, or get another model",
        ) from error
    except RuntimeError as error:
        raise ModelError(
            f"the weights do not fit the plan's network: {' '.join(str(error).split())[:500]}",
            code="E_MODEL_WEIGHTS",
            file=package.location,
            field=package.fold(configuration, fold).file,
            remedy="Train the fold again with this plan",
        ) from error
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        network = build(*table)  # it has buffers that are no weights, and fills them itself
        network.load_state_dict(weights)
    return network.eval()
