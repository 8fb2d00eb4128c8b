"""Fitting: the largest patch and batch whose traced training step stays within memory, found with few traces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from planners.budget import CostFunction, NetworkCost
from planners.families import Family, lift
from planners.memory import LEAST_BATCH, TracedGauge, batch_cap
from planners.patch import shrink
from planners.spacing import Grid
from planners.topology import Topology, plan_topology

Trace = Callable[[Family, Topology, int], NetworkCost]

_MOST_TRACES = 4
_WELL_FILLED = 0.95
_HAIRCUTS = (0.9, 0.8, 0.65)


@dataclass(frozen=True)
class Wish:
    """What a configuration would like, and what it is bound to.

    whole          the topology it starts from, before memory cuts it
    least_voxels   the smallest patch that is worth it
    most_batch     the largest batch that time and data make sense of
    fixed_patch, fixed_batch   set by the user: memory can refuse them, not change them
    """

    family: Family
    grid: Grid
    whole: Topology
    least_voxels: int = 1
    most_batch: int | None = None
    fixed_patch: bool = False
    fixed_batch: int | None = None


@dataclass(frozen=True)
class Fitted:
    """A network that was traced within the limit, and the gauge calibrated on it."""

    family: Family
    topology: Topology
    batch: int
    cost: NetworkCost
    gauge: TracedGauge


def tracer(cost: CostFunction, *, in_channels: int, num_classes: int, device: str) -> Trace:
    """The cost function as the fit calls it; a network is traced once."""
    known: dict[tuple[Family, Topology, int], NetworkCost] = {}

    def trace(family: Family, topology: Topology, batch: int) -> NetworkCost:
        key = (family, topology, batch)
        if key not in known:
            known[key] = cost(
                family.network(topology),
                patch_size=lift(topology.patch),
                batch_size=batch,
                in_channels=in_channels,
                num_classes=num_classes,
                device=device,
            )
        return known[key]

    return trace


def outline(wish: Wish, gauge: TracedGauge) -> tuple[Topology, int] | None:
    """Patch and batch by the gauge alone, without a trace; None where the smallest worthwhile patch does not fit."""
    judged = wish.fixed_batch or LEAST_BATCH

    def fits(topology: Topology) -> bool:
        return gauge.forecast(wish.family, topology, judged) <= gauge.limit

    if wish.fixed_patch:
        topology: Topology | None = wish.whole if fits(wish.whole) else None
    else:
        least = min(wish.least_voxels, wish.whole.voxels)
        topology = shrink(wish.whole, wish.grid, fits, kernel=wish.family.kernel, least_voxels=least, least_stages=2)
    if topology is None:
        return None
    if wish.fixed_batch is not None:
        return topology, wish.fixed_batch
    bounds = [gauge.batch(wish.family, topology), batch_cap(wish.grid, topology)]
    bounds += [] if wish.most_batch is None else [wish.most_batch]
    return topology, max(LEAST_BATCH, min(bounds))


def calibrate(wish: Wish, gauge: TracedGauge, trace: Trace) -> TracedGauge:
    """The gauge after one trace near the likely answer."""
    guess = outline(wish, gauge) or (_smallest(wish), wish.fixed_batch or LEAST_BATCH)
    return gauge.calibrated(wish.family, *guess, trace(wish.family, *guess))


def _smallest(wish: Wish) -> Topology:
    if wish.fixed_patch:
        return wish.whole
    edges = [min(size, 32) for size in wish.whole.patch]
    return plan_topology(wish.grid.spacing, edges, kernel=wish.family.kernel, least_stages=2)


def fit(wish: Wish, gauge: TracedGauge, trace: Trace) -> Fitted | None:
    """The outline checked by traces, each of which corrects the gauge; the fullest that stays within the limit.

    Where the gauge keeps promising what the traces refuse, the last tries aim below the limit. None where nothing fits.
    """
    limit, best = gauge.limit, None
    tried: set[tuple[Topology, int]] = set()
    for aim in (*[1.0] * _MOST_TRACES, *_HAIRCUTS):
        found = outline(wish, replace(gauge, limit=limit * aim))
        if found is None or (best is not None and (found in tried or aim < 1)):
            break
        if found in tried:
            continue
        tried.add(found)
        traced = trace(wish.family, *found)
        gauge = gauge.calibrated(wish.family, *found, traced)
        if traced.training_bytes <= limit:
            best = _fuller(best, Fitted(wish.family, *found, traced, gauge))
            if traced.training_bytes >= _WELL_FILLED * limit:
                break
    return best


def _fuller(best: Fitted | None, new: Fitted) -> Fitted:
    return new if best is None or new.cost.training_bytes > best.cost.training_bytes else best
