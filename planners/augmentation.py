"""How far training varies its patches: turns by the shape of the patch (nnU-Net's section on augmentation, step 1), and the
more of everything, the more often a run shows the same case.

Augmentation keeps a network from learning its cases by heart. A run that shows each case a few times cannot, and pays for
variety with the time to learn what the test will not ask: docs/explanation/short-runs.md.
"""

from __future__ import annotations

import math

import numpy as np

from planners.contract import Triple
from planners.explain import Choice
from planners.fingerprint import Fingerprint
from planners.plan import AugmentationPlan, TrainingPlan
from planners.spacing import Grid
from planners.topology import Topology

FLAT = 3.0
OBLONG = 1.5

# Shown so often, a case is varied as published; shown so rarely, by the least share of the published probabilities.
FULL_PASSES, FEW_PASSES, LEAST_SHARE = 300.0, 10.0, 0.25
# Below so many passes there are no flips. At 150 they still cost Dice (0.864 without, 0.850 with); beyond, this is a guess.
FLIP_PASSES = 1000.0
# Of five folds four are trained on; of the patches drawn this share is placed on foreground.
_TRAINING_SHARE = 0.8
_FOREGROUND_SHARE: float = TrainingPlan.model_fields["foreground_fraction"].default


def data_passes(steps: float, *, batch: int, topology: Topology, grid: Grid) -> float:
    """How often so many steps show each training case: patches drawn, times what share of a case a patch shows.

    For volumes at least the share of patches that are placed on foreground counts: what is to be learnt is shown so often.
    """
    median = float(np.prod(grid.median_shape))
    share = min(1.0, topology.voxels / median)
    if len(grid.spacing) == 3:
        share = max(share, _FOREGROUND_SHARE)
    return steps * batch * share * median / (_TRAINING_SHARE * grid.dataset_voxels)


def augmentation(patch: Triple, *, slicewise: bool, passes: float = math.inf) -> Choice[AugmentationPlan]:
    """The transforms of a patch in network-axis order: how far it may be turned, whether only within its planes, how often.

    Slices turn freely unless oblong, where turning would drive the image out of the patch; so do flat patches, within
    their planes; all others turn by 30° about every axis. All are drawn with the published probabilities, or with a share
    of them in a run that shows each case only `passes` times.
    """
    shape = _by_shape(patch, slicewise=slicewise)
    share = variety(passes)
    if share == 1:
        return shape
    names = [name for name in AugmentationPlan.model_fields if name.endswith("_probability") and not name.endswith("_channel_probability")]
    weaker = shape.value.model_copy(update={name: round(share * getattr(shape.value, name), 4) for name in names})
    reason = f"{shape.reason}; each case is shown about {passes:.3g} times, so transforms are drawn {share:.0%} as often as published"
    return Choice(weaker, f"{shape.rule}, less of it in short runs", reason)


def variety(passes: float) -> float:
    """Share of the published probabilities: it grows with the logarithm of how often a case is shown, between the two bounds."""
    if passes >= FULL_PASSES:
        return 1.0
    way = math.log(max(passes, FEW_PASSES) / FEW_PASSES) / math.log(FULL_PASSES / FEW_PASSES)
    return LEAST_SHARE + (1 - LEAST_SHARE) * way


def flips(allowed: Choice[tuple[int, ...]], *, passes: float, fingerprint: Fingerprint) -> Choice[tuple[int, ...]]:
    """The axes to flip along, in training and so at prediction: those allowed, or none in a run that shows each case rarely.

    Arrays whose orientation is unknown may lie in any way, as microscopy does; they are flipped all the same.
    """
    if passes >= FLIP_PASSES or not allowed.value or any(case.orientation is None for case in fingerprint.cases):
        return allowed
    reason = (
        f"each case is shown about {passes:.3g} times (flips pay from {FLIP_PASSES:.0f}): arrays all lie the same way, and a network that "
        "need not learn flips learns anatomy sooner, and predicts without mirrored copies, up to eight times as fast; "
        f"shown more often: {allowed.rule}"
    )
    return Choice((), "no flips in short runs", reason)


def _by_shape(patch: Triple, *, slicewise: bool) -> Choice[AugmentationPlan]:
    if slicewise:
        ratio = max(patch[1:]) / min(patch[1:])
        angle = 15.0 if ratio > OBLONG else 180.0
        plan = AugmentationPlan(dummy_2d=True, rotation_degrees=(angle, 0.0, 0.0))
        return Choice(
            plan, "rotation of slices", f"slices {patch[1]} × {patch[2]} (ratio {ratio:.2f}; over {OBLONG} is oblong) turn by {angle:g}°"
        )
    ratio = max(patch) / patch[0]
    if ratio > FLAT:
        plan = AugmentationPlan(dummy_2d=True, rotation_degrees=(180.0, 0.0, 0.0))
        reason = (
            f"the longest edge is {ratio:.1f} times axis 0 (over {FLAT:g} is flat): turns and scaling stay within planes of axes 1 and 2"
        )
        return Choice(plan, "flat patches augment in their planes", reason)
    reason = f"the longest edge is {ratio:.1f} times axis 0, not over {FLAT:g}: turns by up to 30° about every axis"
    return Choice(AugmentationPlan(), "rotation in space", reason)
