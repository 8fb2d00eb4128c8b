"""Forecast: what training a plan's configurations will take, before anything starts: time, memory and disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from planners.budget import Budget, CostFunction, NetworkCost
from planners.contract import Triple
from planners.epochs import EpochLength, RunLength, epoch_length, run_length
from planners.fingerprint import Fingerprint
from planners.parts import patches_at_once
from planners.plan import Configuration, Plan
from planners.schedule import LOOP_SHARE, compute_of
from planners.spacing import Shapes, resampled_shapes
from planners.speed import Speed

# A validation batch is a forward pass and the loss: one of a step's three passes.
_PASS_SHARE = 1 / 3
_IMAGE_BYTES, _LABEL_BYTES, _LOCATION_BYTES = 2, 1, 12
_LEAST_LOCATIONS, _LOCATION_SHARE = 10_000, 0.01

WindowCount = Callable[[Triple, Triple], int]


@dataclass(frozen=True)
class Forecast:
    """One configuration on one machine.

    step_seconds   one step in the loop, optimiser included
    length         training steps and validation batches of an epoch
    run            the training loop of one fold
    cases_seconds  validation of the fold's held-out cases after it
    folds          folds there will be
    cost           of the network, as traced; its bytes are those of the patches that a step works on at once
    at_once        that many
    cache_bytes    prepared cases on disk
    limited        whether the plan's time ends the loop
    speed          what the times follow from
    """

    configuration: str
    step_seconds: float
    length: EpochLength
    run: RunLength
    cases_seconds: float
    folds: int
    cost: NetworkCost
    at_once: int
    cache_bytes: int
    limited: bool
    speed: Speed

    @property
    def fold_seconds(self) -> float:
        """A whole fold, from the first step to the last validated case."""
        return self.run.seconds + self.cases_seconds


def forecast(
    plan: Plan, fingerprint: Fingerprint, budget: Budget, *, cost: CostFunction, windows: WindowCount, folds: int
) -> tuple[Forecast, ...]:
    """What every configuration of the plan will take on the budget's device, at its measured speed or a conservative one.

    Args:
        plan, fingerprint: of one dataset.
        budget: device and speed; memory and time are the plan's own by now.
        cost: traces a network.
        windows: sliding windows that cover a volume (Z, Y, X) by a patch.
        folds: that the cases are split into.
    """
    speed, dataset = compute_of(budget).speed, _Dataset(fingerprint, windows, folds)
    found = []
    for name, made in plan.configurations.items():
        traced = partial(
            cost,
            made.network,
            patch_size=made.patch_size,
            in_channels=plan.in_channels(name),
            num_classes=plan.labels.num_classes,
            device=budget.device,
        )
        coupled = made.batch_dice or plan.labels.ignore is not None
        at_once = patches_at_once(made.batch_size, made.patch_size, device=budget.device, coupled=coupled)
        whole, part = traced(batch_size=made.batch_size), traced(batch_size=at_once)
        kept = {"kept_bytes": part.kept_bytes, "training_bytes": part.training_bytes}
        found.append(_configuration(name, plan, dataset, whole.model_copy(update=kept), speed, at_once))
    return tuple(found)


@dataclass(frozen=True)
class _Dataset:
    """What is known of the cases."""

    fingerprint: Fingerprint
    windows: WindowCount
    folds: int


def _configuration(name: str, plan: Plan, dataset: _Dataset, traced: NetworkCost, speed: Speed, at_once: int) -> Forecast:
    made, training, step = plan.configurations[name], plan.training, speed.step_seconds(traced.work) / LOOP_SHARE
    validation = step * _PASS_SHARE
    length = epoch_length(training, step_seconds=step, validation_seconds=validation)
    run = run_length(training, length, step_seconds=step, validation_seconds=validation)
    shapes = _shapes(plan, made, dataset.fingerprint)
    flips = 2 ** sum(not (made.slicewise and axis == 0) for axis in plan.mirror_axes)
    passes = flips * _windows(shapes, made.patch_size, dataset.windows) / dataset.folds
    return Forecast(
        configuration=name,
        step_seconds=step,
        length=length,
        run=run,
        cases_seconds=passes * validation / made.batch_size,
        folds=dataset.folds,
        cost=traced,
        at_once=at_once,
        cache_bytes=_cache_bytes(shapes, dataset.fingerprint),
        limited=training.seconds is not None and run.seconds >= training.seconds,
        speed=speed,
    )


def _shapes(plan: Plan, made: Configuration, fingerprint: Fingerprint) -> Shapes:
    """(cases, 3) shapes of the prepared cases, in network-axis order."""
    order = list(plan.axis_order)
    shapes, spacings = fingerprint.shapes(plan.orientation)[:, order], fingerprint.spacings(plan.orientation)[:, order]
    found = np.maximum(resampled_shapes(shapes, spacings, made.spacing_mm), 1)
    if made.slicewise:
        found[:, 0] = shapes[:, 0]
    return found


def _windows(shapes: Shapes, patch: Triple, windows: WindowCount) -> int:
    """Windows over all cases; every shape is at least the patch, as padding makes it."""
    padded = Counter((max(z, patch[0]), max(y, patch[1]), max(x, patch[2])) for z, y, x in shapes.tolist())
    return sum(count * windows(shape, patch) for shape, count in padded.items())


def _cache_bytes(shapes: Shapes, fingerprint: Fingerprint) -> int:
    """Half-precision images, labels, and the stored foreground voxels of every class."""
    voxels = shapes.prod(axis=1, dtype=float)
    total = float(voxels.sum()) * (_IMAGE_BYTES * len(fingerprint.channel_names) + _LABEL_BYTES)
    for case, size in zip(fingerprint.cases, voxels, strict=True):
        before = float(np.prod(case.shape_after_crop, dtype=float))
        for label in case.labels.values():
            count = label.voxels * size / before
            total += _LOCATION_BYTES * min(count, max(_LEAST_LOCATIONS, _LOCATION_SHARE * count))
    return int(total)
