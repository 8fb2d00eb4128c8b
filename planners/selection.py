"""Selection: the largest network size that fits the memory and can take enough steps in the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planners.explain import bytes_text
from planners.families import Family
from planners.fitting import Fitted, Trace, Wish, calibrate, fit, outline
from planners.memory import LEAST_BATCH, TracedGauge
from planners.overrides import ConfigurationOverrides
from planners.patch import full_volume, initial_patch
from planners.rungs import Rung
from planners.schedule import LONG_STEPS, Compute
from planners.spacing import Grid
from planners.speed import Work
from planners.topology import Topology, plan_topology

# A rung passes if its traced network misses the wanted steps by no more than the forecast may err.
_TOLERATED = 0.9

HURRIED_BATCH = 8


@dataclass(frozen=True)
class Selected:
    """The network size chosen, what was traced for it, and why the larger ones were not."""

    rung: Rung
    fitted: Fitted
    steps: float
    rejected: tuple[str, ...]

    @property
    def starved(self) -> bool:
        """Whether even this size takes fewer steps than it should."""
        return self.steps < _TOLERATED * self.rung.least_steps


def wish_of(rung: Rung, grid: Grid, fixed: ConfigurationOverrides, *, most_batch: int | None = None) -> Wish:
    """What a rung asks for on a grid, with what the user fixed."""
    dims = len(grid.spacing)
    if fixed.patch_size is not None:
        patch = fixed.patch_size[3 - dims :]
        whole = plan_topology(grid.spacing, patch, kernel=rung.family.kernel, exact=True, least_stages=2)
        return Wish(rung.family, grid, whole, most_batch=most_batch, fixed_patch=True, fixed_batch=fixed.batch_size)
    whole = start(rung.family, grid, rung.edge)
    least = full_volume(dims, rung.least_edge)
    return Wish(rung.family, grid, whole, least_voxels=least, most_batch=most_batch, fixed_batch=fixed.batch_size)


def start(family: Family, grid: Grid, edge: int) -> Topology:
    """The topology before memory cuts it."""
    patch = initial_patch(grid, full_volume(len(grid.spacing), edge))
    return plan_topology(grid.spacing, patch, kernel=family.kernel, least_stages=2)


def select(
    rungs: Sequence[Rung], grid: Grid, fixed: ConfigurationOverrides, *, gauge: TracedGauge, trace: Trace, compute: Compute
) -> Selected | None:
    """Goes down the rungs to the first that fits with enough steps; where none has enough, the most frugal that fits.

    Judged by the gauge, calibrated by one trace per architecture, and confirmed by traces. None where nothing fits.
    """
    gauges: dict[str, TracedGauge] = {}
    rejected: list[str] = []
    frugal: tuple[Rung, TracedGauge] | None = None
    seen: set[tuple[object, ...]] = set()
    for rung in rungs:
        if rung.last_resort and frugal is not None:
            break
        wish, name = wish_of(rung, grid, fixed), rung.family.architecture
        # Images smaller than two rungs' patches make them one.
        key = (rung.family, wish.whole, min(wish.least_voxels, wish.whole.voxels), rung.least_steps, rung.least_batch)
        if key in seen:
            continue
        seen.add(key)
        if name not in gauges:
            gauges[name] = calibrate(wish, gauge, trace)
        outlined = outline(wish, gauges[name])
        if outlined is None:
            rejected.append(f"{_text(rung)} does not fit")
            continue
        frugal = (rung, gauges[name])
        most = _most_batch(rung, gauges[name], outlined[0], compute)
        if most is not None and most < min(rung.least_batch, outlined[1]):
            steps = compute.steps(gauges[name].work(rung.family, outlined[0], min(rung.least_batch, outlined[1])))
            rejected.append(f"{_text(rung)} would take {steps:.0f} steps and needs {rung.least_steps}")
            continue
        fitted = fit(replace(wish, most_batch=most), gauges[name], trace)
        if fitted is not None and compute.steps(fitted.cost.work) >= _TOLERATED * rung.least_steps:
            return Selected(rung, fitted, compute.steps(fitted.cost.work), tuple(rejected))
        rejected.append(
            f"{_text(rung)} was traced and does not fit" if fitted is None else f"{_text(rung)} was traced and takes too few steps"
        )
    return _frugal(frugal or (rungs[-1], gauge), grid, fixed, trace=trace, compute=compute, rejected=rejected)


def _frugal(
    choice: tuple[Rung, TracedGauge], grid: Grid, fixed: ConfigurationOverrides, *, trace: Trace, compute: Compute, rejected: Sequence[str]
) -> Selected | None:
    """The last resort: the most frugal size at the smallest batch, its gauge calibrated on the smallest patch."""
    rung, gauge = choice
    wish = wish_of(rung, grid, fixed, most_batch=None if compute.seconds is None else LEAST_BATCH)
    fitted = fit(wish, gauge, trace) or fit(wish, calibrate(wish, gauge, trace), trace)
    if fitted is None:
        return None
    return Selected(rung, fitted, compute.steps(fitted.cost.work), tuple(rejected))


def _most_batch(rung: Rung, gauge: TracedGauge, topology: Topology, compute: Compute) -> int | None:
    """The largest batch with which the time allows the rung's steps; None where time is no limit.

    In a short run the same operations do more as further steps: a batch grows beyond the rung's least only where twice the
    steps remain, and never beyond eight.
    """
    if compute.seconds is None:
        return None

    def work(batch: int) -> Work:
        return gauge.work(rung.family, topology, batch)

    most, spare = (compute.most_batch(compute.seconds / (times * rung.least_steps), work) for times in (1, 2))
    if compute.steps(work(HURRIED_BATCH)) >= LONG_STEPS:
        return most
    return max(min(most, rung.least_batch), min(spare, HURRIED_BATCH))


def why_selected(selected: Selected, limit: float) -> str:
    """Why this architecture and width, and not a larger one, in words."""
    took = "" if selected.steps == float("inf") else f" and takes {selected.steps:.0f} steps in the time"
    text = f"{_text(selected.rung)} fits {bytes_text(limit)}{took}"
    if selected.rejected:
        text += f"; rejected before it: {'; '.join(selected.rejected)}"
    if selected.starved:
        text += f"; WARNING: {selected.rung.least_steps} steps would be needed for a good model: grant more time"
    return text


def _text(rung: Rung) -> str:
    return f"{rung.family.architecture} of {rung.family.base} features from {rung.edge}³"
