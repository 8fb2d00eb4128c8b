"""The default planner: nnU-Net's rules where they are about the data, measured cost where they are about the machine.

What it keeps: spacing, proportions of the patch, depth, widths, configurations, normalisation (Isensee et al. 2021). What it
replaces: memory is a traced training step instead of a count of feature maps; time is a number of steps at the speed measured
here, and a network that cannot take enough steps in it gives way to a smaller one; left and right are never flipped
into each other. The cost function is `autoseg3d.cost.trace_cost` in the program.
"""

from __future__ import annotations

from collections.abc import Sequence

from planners.assembly import examine, finish
from planners.augmentation import data_passes, flips
from planners.budget import Budget, CostFunction, PlanningError
from planners.configurations import main_grid, plan_configurations
from planners.drafting import TracingDrafter, refusal, room_of
from planners.explain import Ledger
from planners.families import RESENC, UNET, VNET, Family
from planners.fingerprint import Fingerprint
from planners.fitting import tracer
from planners.memory import TracedGauge
from planners.overrides import NO_OVERRIDES, Overrides
from planners.plan import Decision, Plan
from planners.rungs import Rung, ladder, standard_ladder
from planners.schedule import compute_of, training
from planners.selection import select
from planners.sides import mirror_axes

_NO_VNET = (
    "a residual encoder where memory and time allow 50,000 steps of it, else a plain U-Net; V-Net only where asked for "
    "(--set architecture=vnet): its 5×5×5 kernels take nearly five times the products of 3×3×3 ones, and no comparison is known in "
    "which it does better"
)


def plan_standard(fingerprint: Fingerprint, budget: Budget, cost: CostFunction, *, overrides: Overrides = NO_OVERRIDES) -> Plan:
    """The plan that trains best in the memory and time given, as far as rules can tell.

    Args:
        fingerprint: the dataset.
        budget: memory (default: what the device has free), device, and time.
        cost: traces what a network costs; called about ten times.
        overrides: values that are fixed; the rest is derived around them.

    Raises:
        PlanningError: where nothing fits, or an override contradicts the data or the budget.
    """
    family = _family_of(overrides)
    rungs = standard_ladder(base=overrides.base_features) if family is None else ladder(family, base=overrides.base_features)
    made = plan_by_cost("standard", rungs, fingerprint, budget, cost, overrides)
    if family is not None:
        return made
    others = Decision(field=f"configurations.{made.configuration()[0]}.network.architecture", rule="three networks", reason=_NO_VNET)
    return made.model_copy(update={"decisions": (*made.decisions, others)})


def _family_of(overrides: Overrides) -> Family | None:
    if overrides.architecture is None:
        return None
    known = {family.architecture: family for family in (UNET, RESENC, VNET)}
    if overrides.architecture not in known:
        raise PlanningError("architecture", overrides.architecture, "no rules for this network", f"Use one of {', '.join(known)}")
    return known[overrides.architecture]


def refuse_other_network(planner: str, family: Family, overrides: Overrides) -> None:
    """Raises PlanningError where the overrides ask a planner of one network for another."""
    if overrides.architecture not in (None, family.architecture):
        reason = f"the planner '{planner}' plans '{family.architecture}'"
        raise PlanningError("architecture", overrides.architecture, reason, "Use the planner `standard`, which takes it")


def plan_by_cost(
    planner: str, rungs: Sequence[Rung], fingerprint: Fingerprint, budget: Budget, cost: CostFunction, overrides: Overrides
) -> Plan:
    """The method that `standard`, `residual` and `vnet` share; they differ in the network sizes (`rungs`) they try."""
    ledger = Ledger()
    # Arrays are turned to the canonical orientation; spacing is the median of the cases, the coarsest axis comes first.
    dataset = examine(fingerprint, "canonical", overrides, ledger)
    # The memory that one training step may take, and the steps that the time allows.
    room, compute = room_of(budget), compute_of(budget)
    # The main configuration decides the network: the largest size that fits and takes enough steps.
    labels = fingerprint.labels
    gauge = TracedGauge(room.limit, len(fingerprint.channel_names), labels.num_classes)
    trace = tracer(cost, in_channels=gauge.in_channels, num_classes=gauge.num_classes, device=budget.device)
    name, grid, _ = main_grid(dataset, overrides)
    selected = select(rungs, grid, overrides.of(name), gauge=gauge, trace=trace, compute=compute)
    if selected is None:
        raise refusal(name, overrides, room)
    # The other configurations use the same network at a cost per step not above the main one's.
    refining = tracer(cost, in_channels=gauge.in_channels + len(labels.labels), num_classes=gauge.num_classes, device=budget.device)
    drafter = TracingDrafter(name, selected, trace, refining, compute, overrides, room)
    configurations = plan_configurations(dataset, drafter, overrides, ledger)
    # The recipe follows from the steps that fit; so do flips, which leave out the left-right axis where labels have sides.
    fitted, width = selected.fitted, selected.rung.family.base
    recipe = training(compute, fitted.cost.work, ledger, features=width)
    passes = data_passes(drafter.steps(fitted), batch=fitted.batch, topology=fitted.topology, grid=grid)
    axes = ledger.take("mirror_axes", flips(mirror_axes(fingerprint, dataset.axis_order), passes=passes, fingerprint=fingerprint))
    return finish(planner, dataset, configurations, ledger, training=recipe, mirror_axes=axes)
