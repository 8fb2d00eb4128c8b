"""nnU-Net's planners, field for field: the default of v2.8.1 and its residual-encoder presets M, L and XL.

Isensee et al. 2021 (Nature Methods 18:203) and 2024 (arXiv 2404.09556). They promise parity, not that a plan fits the machine:
memory is nnU-Net's count of feature-map voxels against published references, which stand for 8, 24 or 40 GB and scale with
the memory that the user grants. A GB of theirs is a GiB here: a budget of 8 GiB gives their 8 GB plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from planners.assembly import Draft, by_user, examine, finish
from planners.budget import GIB, Budget, CostFunction, PlanningError
from planners.configurations import plan_configurations
from planners.explain import Choice, Ledger, bytes_text, duration_text, triple_text
from planners.families import RESENC, UNET, Family
from planners.fingerprint import Fingerprint
from planners.memory import BATCH_SHARE, LEAST_BATCH, FeatureMapGauge, batch_cap
from planners.overrides import NO_OVERRIDES, Overrides
from planners.patch import full_volume, initial_patch, shrink
from planners.plan import Plan, TrainingPlan
from planners.sides import ALL_AXES, side_warning
from planners.spacing import Grid, Spacing
from planners.topology import Topology, plan_topology

_REFERENCE_BATCH = {3: 2, 2: 12}


@dataclass(frozen=True)
class Preset:
    """A published planner.

    target_gib      memory its references hold for; the default where the user grants none
    reference       feature-map voxels that fill it at the reference batch, by number of axes
    whole_reference_batch   whether the reference batch has to fit while the patch is cut, or two patches
    batch_share     share of the training voxels that a batch may show
    """

    name: str
    family: Family
    target_gib: int
    reference: dict[int, float]
    whole_reference_batch: bool
    batch_share: float


_DEFAULT = Preset("nnunet", UNET, 8, {3: 5.6e8, 2: 8.5e7}, whole_reference_batch=False, batch_share=BATCH_SHARE)
_M = Preset("resenc-m", RESENC, 8, {3: 6.8e8, 2: 1.35e8}, whole_reference_batch=True, batch_share=1.0)
_L = Preset("resenc-l", RESENC, 24, {3: 2.1e9, 2: 3.8e8}, whole_reference_batch=True, batch_share=1.0)
_XL = Preset("resenc-xl", RESENC, 40, {3: 3.6e9, 2: 5.6e8}, whole_reference_batch=True, batch_share=1.0)


def plan_nnunet(fingerprint: Fingerprint, budget: Budget, cost: CostFunction, *, overrides: Overrides = NO_OVERRIDES) -> Plan:
    """nnU-Net's default plan (`nnUNetPlans`); 8 GiB unless the user grants another memory."""
    return _plan(_DEFAULT, fingerprint, budget, overrides)


def plan_resenc_m(fingerprint: Fingerprint, budget: Budget, cost: CostFunction, *, overrides: Overrides = NO_OVERRIDES) -> Plan:
    """The residual-encoder preset M (`nnUNetResEncUNetMPlans`); 8 GiB unless the user grants another memory."""
    return _plan(_M, fingerprint, budget, overrides)


def plan_resenc_l(fingerprint: Fingerprint, budget: Budget, cost: CostFunction, *, overrides: Overrides = NO_OVERRIDES) -> Plan:
    """The residual-encoder preset L (`nnUNetResEncUNetLPlans`); 24 GiB unless the user grants another memory."""
    return _plan(_L, fingerprint, budget, overrides)


def plan_resenc_xl(fingerprint: Fingerprint, budget: Budget, cost: CostFunction, *, overrides: Overrides = NO_OVERRIDES) -> Plan:
    """The residual-encoder preset XL (`nnUNetResEncUNetXLPlans`); 40 GiB unless the user grants another memory."""
    return _plan(_XL, fingerprint, budget, overrides)


def _plan(preset: Preset, fingerprint: Fingerprint, budget: Budget, overrides: Overrides) -> Plan:
    """nnU-Net's planning, step by step."""
    _refuse_foreign(preset, overrides)
    memory = budget.memory_for(preset.target_gib * GIB)
    ledger = Ledger()
    # Spacing, axis order, median shape and normalisation of the data as filed.
    dataset = examine(fingerprint, "as-stored", overrides, ledger)
    # For each resolution: patch and network cut to the memory by count of feature maps, then the batch.
    drafter = _CountingDrafter(preset, memory, fingerprint.labels.num_entries, overrides)
    configurations = plan_configurations(dataset, drafter, overrides, ledger)
    # Augmentation flips every axis, whatever the labels mean; the recipe is the same for every dataset.
    ledger.note("mirror_axes", "flips along every axis", side_warning(fingerprint) or "nnU-Net flips along every axis")
    ledger.note("training", "nnU-Net's recipe", _training_text(budget))
    training = TrainingPlan(seconds=budget.seconds)
    return finish(preset.name, dataset, configurations, ledger, training=training, mirror_axes=ALL_AXES)


def _refuse_foreign(preset: Preset, overrides: Overrides) -> None:
    for field in ("architecture", "base_features"):
        if (value := getattr(overrides, field)) is not None:
            reason = f"'{preset.name}' stands for one published network"
            raise PlanningError(field, value, reason, "Use the planner `standard`, which takes it")


def _training_text(budget: Budget) -> str:
    usual = "1000 epochs of 250 iterations, SGD with Nesterov momentum 0.99, learning rate 0.01 (1 - t)^0.9, weight decay 3e-5"
    return usual if budget.seconds is None else f"{usual}; t runs over the {duration_text(budget.seconds)} that were granted"


@dataclass(frozen=True)
class _CountingDrafter:
    """Drafts configurations by nnU-Net's count of feature-map voxels."""

    preset: Preset
    memory: int
    heads: int
    overrides: Overrides

    def draft(self, name: str, grid: Grid, why_spacing: Choice[Spacing]) -> Draft | None:
        """The network of a configuration; None where it has one resolution only. Raises PlanningError."""
        fixed = self.overrides.of(name)
        topology = self._topology(name, grid)
        if topology is None:
            reason = "no patch is small enough for this memory"
            raise PlanningError("memory_bytes", bytes_text(self.memory), f"{name}: {reason}", "Grant more, for instance --memory 8GB")
        if topology.stages < 2:
            return None
        batch = self._batch(grid, topology) if fixed.batch_size is None else by_user(fixed.batch_size)
        why_patch = self._why_patch(grid, topology) if fixed.patch_size is None else by_user(topology)
        why_family = Choice(self.preset.family, "published preset", f"'{self.preset.name}' stands for this network")
        return Draft(self.preset.family, grid, topology, batch.value, why_family, why_spacing, why_patch, batch)

    def patch_voxels(self, name: str, grid: Grid) -> int | None:
        """Voxels of the patch that `draft` would choose."""
        topology = self._topology(name, grid)
        return None if topology is None else topology.voxels

    def _gauge(self, dims: int) -> FeatureMapGauge:
        reference = self.preset.reference[dims] * (self.memory / GIB / self.preset.target_gib)
        batch = _REFERENCE_BATCH[dims]
        return FeatureMapGauge(reference, batch, batch if self.preset.whole_reference_batch else LEAST_BATCH, self.heads)

    def _topology(self, name: str, grid: Grid) -> Topology | None:
        dims = len(grid.spacing)
        if (fixed := self.overrides.of(name).patch_size) is not None:
            return plan_topology(grid.spacing, fixed[3 - dims :], exact=True)
        gauge, family = self._gauge(dims), self.preset.family
        whole = plan_topology(grid.spacing, initial_patch(grid, full_volume(dims)))
        return shrink(whole, grid, lambda topology: gauge.fits(family, topology))

    def _why_patch(self, grid: Grid, topology: Topology) -> Choice[Topology]:
        gauge = self._gauge(len(grid.spacing))
        count = self.preset.family.feature_voxels(topology, self.heads)
        reason = (
            f"a physically cubic patch within the median shape {triple_text(grid.median_shape)}, cut along the axis that covers most of it "
            f"until {count:.3g} feature-map voxels meet the reference {gauge.reference:.3g} for {bytes_text(self.memory)}"
        )
        return Choice(topology, "patch by feature-map count", reason)

    def _batch(self, grid: Grid, topology: Topology) -> Choice[int]:
        fitting = self._gauge(len(grid.spacing)).batch(self.preset.family, topology)
        cap = batch_cap(grid, topology, self.preset.batch_share)
        reason = (
            f"{fitting} patches meet the reference for {bytes_text(self.memory)}; {cap} show {self.preset.batch_share:.0%} of the training "
            f"voxels; the smaller, and at least {LEAST_BATCH}"
        )
        return Choice(max(min(fitting, cap), LEAST_BATCH), "batch by memory and share of the data", reason)
