"""Assembly: from what the rules decided to the records of a plan, with the reasons written down on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from planners.augmentation import augmentation, data_passes
from planners.budget import PlanningError
from planners.contract import SpacingTriple, Triple
from planners.explain import Choice, Ledger, triple_text
from planners.families import Family, convolutions_text, lift
from planners.fingerprint import Fingerprint, Orientation
from planners.intensity import normalization, use_mask_for_norm
from planners.overrides import Overrides
from planners.plan import Configuration, Normalization, Plan, TrainingPlan
from planners.spacing import Grid, Spacing, coarsest_first, plan_grid, target_spacing
from planners.topology import Topology

T = TypeVar("T")

CASCADE = "3d_cascade_fullres"


@dataclass(frozen=True)
class Dataset:
    """What all configurations of a plan share: the axes, the grid at full resolution, and the intensities."""

    fingerprint: Fingerprint
    orientation: Orientation
    axis_order: Triple
    grid: Grid
    why_spacing: Choice[Spacing]
    normalization: Choice[tuple[Normalization, ...]]
    use_mask_for_norm: Choice[tuple[bool, ...]]

    @property
    def flat(self) -> bool:
        """Whether the median case is a single slice, so that only a slicewise network makes sense."""
        return self.grid.median_shape[0] == 1

    def grid_at(self, spacing: SpacingTriple) -> Grid:
        """The grid at another spacing, in network-axis order."""
        shapes, spacings = self.fingerprint.shapes(self.orientation), self.fingerprint.spacings(self.orientation)
        array_axes: list[float] = [0.0, 0.0, 0.0]
        for axis, mm in zip(self.axis_order, spacing, strict=True):
            array_axes[axis] = mm
        return plan_grid(shapes, spacings, tuple(array_axes), order=self.axis_order, num_training=self.grid.cases)


@dataclass(frozen=True)
class Draft:
    """A configuration's network before it is written down, and how its numbers came about.

    steps   training steps that are planned for; infinite where nothing limits them
    """

    family: Family
    grid: Grid
    topology: Topology
    batch: int
    why_family: Choice[Family]
    why_spacing: Choice[Spacing]
    why_patch: Choice[Topology]
    why_batch: Choice[int]
    steps: float = math.inf

    @property
    def passes(self) -> float:
        """How often training shows each training case."""
        return data_passes(self.steps, batch=self.batch, topology=self.topology, grid=self.grid)


def examine(fingerprint: Fingerprint, orientation: Orientation, overrides: Overrides, ledger: Ledger) -> Dataset:
    """Axes, spacing, median shape and normalisation of a dataset; raises PlanningError where there is nothing to learn from."""
    shapes, spacings = fingerprint.shapes(orientation), fingerprint.spacings(orientation)
    if shapes.prod(axis=1, dtype=float).max() < 2:
        raise PlanningError("shape_after_crop", (1, 1, 1), "no case has more than one voxel", "Check the images of this dataset")
    target = target_spacing(shapes, spacings)
    if overrides.spacing_mm is not None:
        target = Choice(overrides.spacing_mm, "set by the user", f"fixed at {triple_text(overrides.spacing_mm)} mm along (z, y, x)")
    ledger.note("orientation", "orientation of arrays", _orientation_text(orientation))
    ledger.note("window_weights", "precision of window weights", "nothing vanishes in float32; only imported models keep nnU-Net's float16")
    order = ledger.take("axis_order", coarsest_first(target.value))
    grid = plan_grid(shapes, spacings, target.value, order=order, num_training=fingerprint.num_training)
    schemes = normalization(fingerprint.channel_names)
    masks = use_mask_for_norm(schemes.value, fingerprint.median_relative_size_after_crop)
    for field in ("channel_names", "labels", "intensities"):
        ledger.note(field, "taken from the dataset", "as dataset.json and the fingerprint tell; nothing was chosen")
    return Dataset(fingerprint, orientation, order, grid, target, schemes, masks)


def _orientation_text(orientation: Orientation) -> str:
    if orientation == "canonical":
        return "arrays are turned to (S, A, R) first, so that scans stored in different orientations look alike to the network"
    return "arrays stay as they are filed, as nnU-Net leaves them; scans in orientations unseen in training are flagged"


def configure(name: str, dataset: Dataset, draft: Draft, ledger: Ledger, *, batch_dice: Choice[bool]) -> Configuration:
    """The record of a configuration, its reasons noted under configurations.<name>."""
    at = f"configurations.{name}"
    slicewise = len(draft.topology.patch) == 2
    patch = lift(draft.topology.patch)
    spacing, shape = ((1.0,) * slicewise + draft.grid.spacing, (1.0,) * slicewise + draft.grid.median_shape)
    ledger.note(
        f"{at}.median_shape", "median resampled shape", f"per-axis median over {len(dataset.fingerprint.cases)} cases at this spacing"
    )
    ledger.take(f"{at}.spacing_mm", draft.why_spacing)
    ledger.take(f"{at}.patch_size", draft.why_patch)
    ledger.take(f"{at}.batch_size", draft.why_batch)
    ledger.note(f"{at}.slicewise", "slices or volumes", "slice by slice along axis 0" if slicewise else "volumes")
    _explain_network(at, draft, ledger)
    return Configuration(
        spacing_mm=_three(spacing),
        median_shape=_three(shape),
        patch_size=patch,
        batch_size=draft.batch,
        network=draft.family.network(draft.topology),
        normalization=ledger.take(f"{at}.normalization", dataset.normalization),
        use_mask_for_norm=ledger.take(f"{at}.use_mask_for_norm", dataset.use_mask_for_norm),
        batch_dice=ledger.take(f"{at}.batch_dice", batch_dice),
        slicewise=slicewise,
        augmentation=ledger.take(f"{at}.augmentation", augmentation(patch, slicewise=slicewise, passes=draft.passes)),
    )


def _three(values: Spacing) -> tuple[float, float, float]:
    first, second, third = values
    return (first, second, third)


def _explain_network(at: str, draft: Draft, ledger: Ledger) -> None:
    family, topology = draft.family, draft.topology
    ledger.note(f"{at}.network.architecture", draft.why_family.rule, draft.why_family.reason)
    widest = max(family.features(topology.stages, len(topology.patch)))
    limit = family.base * (family.widest_3d if len(topology.patch) == 3 else family.widest_2d)
    ledger.note(
        f"{at}.network.stages.features",
        "features double per stage",
        f"from {family.base} at the finest stage, not beyond {limit}; the widest here has {widest}",
    )
    ledger.note(
        f"{at}.network.stages.stride",
        "halve until the smallest edge is about four voxels",
        f"axes within a factor two of the finest spacing are halved together, {topology.stages - 1} times in all; the deepest map of "
        f"the patch is {triple_text(p // d for p, d in zip(topology.patch, topology.divisor, strict=True))}",
    )
    ledger.note(
        f"{at}.network.stages.kernel",
        f"kernels of {family.kernel}, and of 1 across thick slices",
        "an axis twice as coarse as the finest or more is not convolved until halving has evened the spacings",
    )
    ledger.note(f"{at}.network.stages.blocks", f"depth of {family.architecture}", convolutions_text(family))
    ledger.note(f"{at}.network.decoder_blocks", f"depth of {family.architecture}", convolutions_text(family))
    ledger.note(f"{at}.network.deep_supervision", "deep supervision", "every decoder resolution is trained, the coarsest with weight 0")
    ledger.note(f"{at}.network.stages", "receptive field r0 = sum (k - 1) prod s + 1", receptive_text(family, topology))


def receptive_text(family: Family, topology: Topology) -> str:
    """What a voxel of the deepest stage sees, compared with the patch."""
    field = family.receptive_field(topology)
    short = [axis for axis, (seen, size) in enumerate(zip(field, topology.patch, strict=True)) if seen < size]
    verdict = "the whole patch" if not short else f"less than the patch along axis {', '.join(str(axis) for axis in short)}"
    return f"a voxel of the deepest stage sees {triple_text(field)} voxels of a patch of {triple_text(topology.patch)}: {verdict}"


def by_user(value: T) -> Choice[T]:
    """A value that a person fixed."""
    return Choice(value, "set by the user", "fixed before planning; what depends on it was derived around it")


def full_batch_dice(has_low_resolution: bool) -> Choice[bool]:
    """Whether Dice is taken over the batch at full resolution."""
    why = "patches see little of a case, so single ones often lack a label" if has_low_resolution else "a patch sees much of a case"
    return Choice(has_low_resolution, "batch Dice where a low-resolution stage exists", why)


SLICE_DICE = Choice(True, "batch Dice for slices", "single slices often lack a label, the batch seldom")
LOW_DICE = Choice(False, "Dice per patch at low resolution", "a patch sees much of a case")


def finish(
    planner: str,
    dataset: Dataset,
    configurations: dict[str, Configuration],
    ledger: Ledger,
    *,
    training: TrainingPlan,
    mirror_axes: tuple[int, ...],
) -> Plan:
    """The Plan, with all decisions. Raises PlanningError where no configuration could be planned."""
    fingerprint = dataset.fingerprint
    if not configurations:
        got = triple_text(dataset.grid.median_shape)
        raise PlanningError(
            "median_shape", got, "no network has two resolutions on images this small", "Resample them finer, or use `standard`"
        )
    return Plan(
        planner=planner,
        dataset_name=fingerprint.dataset_name,
        orientation=dataset.orientation,
        axis_order=dataset.axis_order,
        mirror_axes=mirror_axes,
        channel_names=fingerprint.channel_names,
        labels=fingerprint.labels,
        intensities=fingerprint.intensities,
        configurations=configurations,
        training=training,
        fingerprint_hash=fingerprint.content_hash(),
        decisions=ledger.decisions,
    )
