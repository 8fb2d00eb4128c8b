"""Drafting by traced cost: the memory a step may take, and the networks of all configurations around the main one's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from planners.assembly import CASCADE, Draft, by_user
from planners.budget import GIB, Budget, PlanningError
from planners.explain import Choice, bytes_text, triple_text
from planners.families import lift
from planners.fitting import Fitted, Trace, Wish, fit, outline
from planners.memory import BATCH_SHARE, LEAST_BATCH, batch_cap
from planners.overrides import Overrides
from planners.schedule import LONG_STEPS, Compute
from planners.selection import Selected, why_selected, wish_of
from planners.spacing import Grid, Spacing
from planners.topology import Topology

DEFAULT_MEMORY = 8 * GIB
FILLED = 0.9
FILLED_AS_FOUND = 0.6


@dataclass(frozen=True)
class Room:
    """The memory to plan for: `memory` bytes as granted or found, of which a training step may take `limit`."""

    memory: int
    limit: float
    source: str

    def __str__(self) -> str:
        return f"{bytes_text(self.limit)} ({self.limit / self.memory:.0%} of {bytes_text(self.memory)} {self.source})"


def room_of(budget: Budget) -> Room:
    """What a training step may take: nine tenths, since no trace foresees everything, less of a computer's free memory.

    A CPU shares its memory with the workers that prepare patches and with the cache of the prepared cases. Raises
    PlanningError for less memory than any training takes.
    """
    memory = budget.memory_for(DEFAULT_MEMORY, use_free=True)
    if budget.memory_bytes is not None:
        return Room(memory, FILLED * memory, "granted")
    if budget.free_bytes is None:
        return Room(memory, FILLED * memory, "assumed, as nobody looked")
    share = FILLED if budget.device == "cuda" else FILLED_AS_FOUND
    return Room(memory, share * memory, f"free on the {budget.device} device")


def refusal(name: str, overrides: Overrides, room: Room) -> PlanningError:
    """The error for a configuration that does not fit, naming what the user fixed, if anything, else the memory."""
    remedy = "Grant more memory, for instance --memory 8GB"
    for field in ("patch_size", "batch_size"):
        if (value := getattr(overrides.of(name), field)) is not None:
            reason = f"the smallest network around it needs more than {room}"
            return PlanningError(f"{name}.{field}", value, reason, f"Choose a smaller one. {remedy}")
    return PlanningError("memory_bytes", bytes_text(room.memory), f"{name}: the smallest network needs more than {room}", remedy)


@dataclass(frozen=True)
class TracingDrafter:
    """Drafts the configurations of a plan around the network selected for the main one.

    refining   traces networks that see the labels of a previous stage as well
    compute    the time: where it limits the steps, no configuration's step should take longer than the main one's
    """

    main: str
    selected: Selected
    trace: Trace
    refining: Trace
    compute: Compute
    overrides: Overrides
    room: Room

    def draft(self, name: str, grid: Grid, why_spacing: Choice[Spacing]) -> Draft | None:
        """The network of a configuration; None for slices of a single voxel. Raises PlanningError where it does not fit."""
        if max(grid.median_shape) < 2:
            return None
        fitted = self.selected.fitted if name == self.main else self._fit(name, grid)
        if fitted is None:
            raise refusal(name, self.overrides, self.room)
        fixed = self.overrides.of(name)
        return Draft(
            family=fitted.family,
            grid=grid,
            topology=fitted.topology,
            batch=fitted.batch,
            why_family=Choice(fitted.family, "the largest network that fits and takes enough steps", self._why_family(name)),
            why_spacing=why_spacing,
            why_patch=by_user(fitted.topology) if fixed.patch_size is not None else self._why_patch(grid, fitted),
            why_batch=by_user(fitted.batch) if fixed.batch_size is not None else self._why_batch(grid, fitted),
            steps=self.steps(fitted),
        )

    def steps(self, fitted: Fitted) -> float:
        """Steps of a configuration by which it is augmented: no limit in a long run, whose published recipe is taken whole.

        Whether a run is long is told by the main configuration, as the recipe is.
        """
        return math.inf if self.selected.steps >= LONG_STEPS else self.compute.steps(fitted.cost.work)

    def patch_voxels(self, name: str, grid: Grid) -> int | None:
        """Voxels of the patch, by the gauge alone."""
        found = outline(self._wish(name, grid), self.selected.fitted.gauge)
        return None if found is None else found[0].voxels

    def _wish(self, name: str, grid: Grid) -> Wish:
        wish = wish_of(self.selected.rung, grid, self.overrides.of(name))
        if wish.fixed_batch is None:
            wish = replace(wish, least_voxels=1)
        if name != CASCADE or wish.fixed_patch:
            return wish
        # The cascade refines what 3d_fullres would see: same patch, unless the extra channels leave no room for it.
        return replace(wish, whole=self.selected.fitted.topology, most_batch=self.selected.fitted.batch)

    def _fit(self, name: str, grid: Grid) -> Fitted | None:
        wish, gauge = self._wish(name, grid), self.selected.fitted.gauge
        if self.compute.seconds is not None and wish.most_batch is None and (found := outline(wish, gauge)) is not None:
            topology, seconds = found[0], self.compute.step_seconds(self.selected.fitted.cost.work)
            most = self.compute.most_batch(seconds, lambda batch: gauge.work(wish.family, topology, batch))
            wish = replace(wish, most_batch=max(LEAST_BATCH, most))
        return fit(wish, gauge, self.refining if name == CASCADE else self.trace)

    def _why_family(self, name: str) -> str:
        if name == self.main:
            return why_selected(self.selected, self.room.limit)
        return f"as in {self.main}, so that one network family and one schedule serve all configurations"

    def _why_patch(self, grid: Grid, fitted: Fitted) -> Choice[Topology]:
        whole = wish_of(self.selected.rung, grid, self.overrides.of("")).whole
        cut = (
            "not cut"
            if whole.patch == fitted.topology.patch
            else f"cut from {triple_text(whole.patch)} along the axis that covers most of it"
        )
        reason = (
            f"physically cubic within the median shape {triple_text(grid.median_shape)}, {cut}; a traced training step with batch "
            f"{fitted.batch} takes {bytes_text(fitted.cost.training_bytes)} of {self.room}"
        )
        return Choice(fitted.topology, "the largest patch whose traced training step fits", reason)

    def _why_batch(self, grid: Grid, fitted: Fitted) -> Choice[int]:
        fitting = fitted.gauge.batch(fitted.family, fitted.topology)
        cap = batch_cap(grid, fitted.topology)
        reason = f"{fitting} patches of {triple_text(lift(fitted.topology.patch))} fit; {cap} show {BATCH_SHARE:.0%} of the training voxels"
        if fitted.batch < min(fitting, cap) and self.compute.seconds is not None:
            reason += "; fewer, so that the time holds enough steps"
        return Choice(fitted.batch, f"batch by memory, data and time, at least {LEAST_BATCH}", reason)
