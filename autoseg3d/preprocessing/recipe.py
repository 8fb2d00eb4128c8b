"""Recipe: what of a plan decides how cases come out of preprocessing, and the name under which they are kept."""

from __future__ import annotations

from typing import Literal

from planners.contract import Contract, SpacingTriple, Triple
from planners.fingerprint import IntensityStatistics, Orientation
from planners.labels import LabelTable
from planners.plan import Normalization, Plan


class Recipe(Contract):
    """The settings that preprocessed cases depend on; configurations with equal recipes share their cases.

    version      raised whenever preprocessing gives other values or files from the same settings
    intensities  only of channels with the "ct" scheme; the others do not depend on them
    geometry     the option cases are read with
    """

    version: Literal[2] = 2
    orientation: Orientation
    axis_order: Triple
    spacing_mm: SpacingTriple
    slicewise: bool
    normalization: tuple[Normalization, ...]
    use_mask_for_norm: tuple[bool, ...]
    intensities: tuple[IntensityStatistics | None, ...]
    labels: LabelTable
    geometry: str

    @property
    def key(self) -> str:
        """The name of the folder in the cache."""
        return self.content_hash()[:16]


def recipe(plan: Plan, configuration: str, *, geometry: str = "auto") -> Recipe:
    """The recipe of one configuration of a plan."""
    chosen = plan.configurations[configuration]
    return Recipe(
        orientation=plan.orientation,
        axis_order=plan.axis_order,
        spacing_mm=(1.0, *chosen.spacing_mm[1:]) if chosen.slicewise else chosen.spacing_mm,
        slicewise=chosen.slicewise,
        normalization=chosen.normalization,
        use_mask_for_norm=chosen.use_mask_for_norm,
        intensities=tuple(s if n == "ct" else None for n, s in zip(chosen.normalization, plan.intensities, strict=True)),
        labels=plan.labels,
        geometry=geometry,
    )
