"""Augmentation by the shape of the patch (nnU-Net's section on augmentation, step 1)."""

from __future__ import annotations

from planners.contract import Triple
from planners.explain import Choice
from planners.plan import AugmentationPlan

FLAT = 3.0
OBLONG = 1.5


def augmentation(patch: Triple, *, slicewise: bool) -> Choice[AugmentationPlan]:
    """The transforms of a patch in network-axis order: how far it may be turned, and whether only within its planes.

    Slices turn freely unless oblong, where turning would drive the image out of the patch; so do flat patches, within
    their planes; all others turn by 30° about every axis.
    """
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
