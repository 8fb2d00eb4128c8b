"""Memory and batch: two gauges that tell whether a patch fits and how many of them make a batch.

`FeatureMapGauge` is nnU-Net's published count (its rules 7 to 10). `TracedGauge` speaks in bytes: it scales what a traced
cost measured for one network to its neighbours, so that a planner needs few traces; `planners.fitting` checks the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from planners.budget import NetworkCost
from planners.families import Family
from planners.spacing import Grid
from planners.speed import Work
from planners.topology import Topology

LEAST_BATCH = 2
BATCH_SHARE = 0.05
STATE_BYTES = 16
FIRST_GUESS_BYTES = 8.0
# Bytes that a step moves per weight (casts, gradient, clipping, optimiser, average) and, at a guess, per feature voxel.
MOVED_PER_WEIGHT = 70
FIRST_GUESS_MOVED = 40.0


class Gauge(Protocol):
    """What a patch search asks about memory."""

    def fits(self, family: Family, topology: Topology) -> bool:
        """Whether the smallest allowed batch of this patch fits."""
        ...

    def batch(self, family: Family, topology: Topology) -> int:
        """Patches that fit at once, by memory alone."""
        ...


@dataclass(frozen=True)
class FeatureMapGauge:
    """nnU-Net's measure: values put out by the convolutions of one patch, against a reference found by experiment.

    reference        values that fill the target memory at `reference_batch`
    judged_batch     the batch that must fit while the patch is cut: 2 for the default planner, the reference for ResEnc
    heads            entries of the dataset's labels table: background, labels or regions, and ignore all count
    """

    reference: float
    reference_batch: int
    judged_batch: int
    heads: int

    def fits(self, family: Family, topology: Topology) -> bool:
        """Whether `judged_batch` patches stay within the reference."""
        return family.feature_voxels(topology, self.heads) / self.reference_batch * self.judged_batch <= self.reference

    def batch(self, family: Family, topology: Topology) -> int:
        """round(reference / count × reference batch); 0 where not even half a patch fits."""
        return round(self.reference / family.feature_voxels(topology, self.heads) * self.reference_batch)


@dataclass(frozen=True)
class TracedGauge:
    """Bytes of a training step, forecast from the last trace of a network of the same architecture.

    bytes = state per weight × weights + bytes per feature voxel × feature voxels × batch, where the first factor is
    weights, gradients and two moments in float32 and the second follows from the trace.
    """

    limit: float
    in_channels: int
    num_classes: int
    bytes_per_voxel: float = FIRST_GUESS_BYTES
    flops_ratio: float = 1.0
    moved_per_voxel: float = FIRST_GUESS_MOVED

    def forecast(self, family: Family, topology: Topology, batch: int) -> float:
        """Bytes that a training step of this batch is expected to take."""
        return self._state(family, topology) + batch * self.bytes_per_voxel * family.feature_voxels(topology, self.num_classes)

    def _state(self, family: Family, topology: Topology) -> float:
        return STATE_BYTES * family.parameters(topology, self.in_channels, self.num_classes)

    def work(self, family: Family, topology: Topology, batch: int) -> Work:
        """A training step's, scaled by what the trace found."""
        flops = batch * self.flops_ratio * family.step_flops(topology, self.in_channels, self.num_classes)
        weights = family.parameters(topology, self.in_channels, self.num_classes)
        moved = batch * self.moved_per_voxel * family.feature_voxels(topology, self.num_classes)
        return Work(flops, MOVED_PER_WEIGHT * weights + moved)

    def fits(self, family: Family, topology: Topology) -> bool:
        """Whether a batch of two is expected to stay within the limit."""
        return self.forecast(family, topology, LEAST_BATCH) <= self.limit

    def batch(self, family: Family, topology: Topology) -> int:
        """The largest batch expected to stay within the limit, 0 if none."""
        room = self.limit - self._state(family, topology)
        return max(0, int(room / (self.bytes_per_voxel * family.feature_voxels(topology, self.num_classes))))

    def calibrated(self, family: Family, topology: Topology, batch: int, traced: NetworkCost) -> TracedGauge:
        """The gauge that forecasts exactly what was traced for this network, and scales to others from there."""
        voxels = batch * family.feature_voxels(topology, self.num_classes)
        per_voxel = (traced.training_bytes - self._state(family, topology)) / voxels
        flops = batch * family.step_flops(topology, self.in_channels, self.num_classes)
        moved = traced.moved_bytes - MOVED_PER_WEIGHT * family.parameters(topology, self.in_channels, self.num_classes)
        # A trace below the state bytes would make patches free; a byte a value is less than any training needs.
        return replace(
            self,
            bytes_per_voxel=max(per_voxel, 1.0),
            flops_ratio=max(traced.step_flops / flops, 0.01),
            moved_per_voxel=max(moved / voxels, 1.0),
        )


def batch_cap(grid: Grid, topology: Topology, share: float = BATCH_SHARE) -> int:
    """The batch that sees `share` of the training set's voxels in one step: more would repeat the same voxels."""
    return round(grid.dataset_voxels * share / topology.voxels)
