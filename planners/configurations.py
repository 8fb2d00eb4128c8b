"""Which configurations a plan has: slices, volumes, and where a patch sees too little, a cascade of two resolutions."""

from __future__ import annotations

from typing import Protocol

from planners.assembly import CASCADE, LOW_DICE, SLICE_DICE, Dataset, Draft, configure, full_batch_dice
from planners.budget import PlanningError
from planners.cascade import low_resolution
from planners.contract import SpacingTriple
from planners.explain import Choice, Ledger, triple_text
from planners.overrides import Overrides
from planners.plan import Configuration
from planners.spacing import Grid, Spacing


class Drafter(Protocol):
    """What a planner adds to the rules: how patch, batch and network of one configuration are found."""

    def draft(self, name: str, grid: Grid, why_spacing: Choice[Spacing]) -> Draft | None:
        """The configuration's network; None where its images are too small for two resolutions. Raises PlanningError."""
        ...

    def patch_voxels(self, name: str, grid: Grid) -> int | None:
        """A quick forecast of the drafted patch's voxels; None where nothing fits."""
        ...


def plan_configurations(dataset: Dataset, drafter: Drafter, overrides: Overrides, ledger: Ledger) -> dict[str, Configuration]:
    """2d always; 3d_fullres unless the median case is a single slice; 3d_lowres and the cascade by nnU-Net's rule 11."""
    _refuse_unknown(overrides)
    made = {} if dataset.flat else _volumes(dataset, drafter, overrides, ledger)
    return _slices(dataset, drafter, overrides, ledger) | made


def main_grid(dataset: Dataset, overrides: Overrides) -> tuple[str, Grid, Choice[Spacing]]:
    """Name, grid and reason of the spacing of the configuration a plan is built around: 3d_fullres, or 2d for single slices."""
    if dataset.flat:
        return ("2d", *_slice_grid(dataset, overrides))
    return ("3d_fullres", *_full_grid(dataset, overrides))


def _slice_grid(dataset: Dataset, overrides: Overrides) -> tuple[Grid, Choice[Spacing]]:
    fixed = overrides.of("2d").spacing_mm
    if fixed is None:
        return dataset.grid.slices(), dataset.why_spacing
    grid, why = _fixed_spacing(dataset, (dataset.grid.spacing[0], fixed[1], fixed[2]))
    return grid.slices(), why


def _full_grid(dataset: Dataset, overrides: Overrides) -> tuple[Grid, Choice[Spacing]]:
    fixed = overrides.of("3d_fullres").spacing_mm
    return (dataset.grid, dataset.why_spacing) if fixed is None else _fixed_spacing(dataset, fixed)


def _refuse_unknown(overrides: Overrides) -> None:
    known = ("2d", "3d_fullres", "3d_lowres", CASCADE)
    for name, fixed in overrides.configurations.items():
        if name not in known:
            raise PlanningError(name, fixed.model_dump(exclude_none=True), "no such configuration", f"Use one of {', '.join(known)}")
        if name == CASCADE and fixed.spacing_mm is not None:
            raise PlanningError(f"{name}.spacing_mm", fixed.spacing_mm, "the cascade works at full resolution", "Set 3d_fullres.spacing_mm")


def _slices(dataset: Dataset, drafter: Drafter, overrides: Overrides, ledger: Ledger) -> dict[str, Configuration]:
    grid, why = _slice_grid(dataset, overrides)
    draft = drafter.draft("2d", grid, why)
    if draft is None:
        ledger.note("configurations", "no 2d", f"slices of {triple_text(grid.median_shape)} voxels are too small for two resolutions")
        return {}
    return {"2d": configure("2d", dataset, draft, ledger, batch_dice=SLICE_DICE)}


def _volumes(dataset: Dataset, drafter: Drafter, overrides: Overrides, ledger: Ledger) -> dict[str, Configuration]:
    grid, why = _full_grid(dataset, overrides)
    full = drafter.draft("3d_fullres", grid, why)
    if full is None:
        ledger.note(
            "configurations", "no 3d_fullres", f"volumes of {triple_text(grid.median_shape)} voxels are too small for two resolutions"
        )
        return {}
    low = _low(dataset, drafter, overrides, full, ledger)
    dice = full_batch_dice(low is not None)
    made = {"3d_fullres": configure("3d_fullres", dataset, full, ledger, batch_dice=dice)}
    if low is not None:
        made["3d_lowres"] = configure("3d_lowres", dataset, low, ledger, batch_dice=LOW_DICE)
        refined = drafter.draft(CASCADE, full.grid, full.why_spacing) or full
        cascade = configure(CASCADE, dataset, refined, ledger, batch_dice=dice)
        reason = "takes the labels predicted at low resolution as one-hot channels and refines them at full resolution"
        ledger.note(f"configurations.{CASCADE}.previous_stage", "cascade of two resolutions", reason)
        made[CASCADE] = cascade.model_copy(update={"previous_stage": "3d_lowres"})
    return made


def _low(dataset: Dataset, drafter: Drafter, overrides: Overrides, full: Draft, ledger: Ledger) -> Draft | None:
    """The low-resolution stage by rule, or at the spacing a person fixed."""
    if (fixed := overrides.of("3d_lowres").spacing_mm) is not None:
        return drafter.draft("3d_lowres", *_fixed_spacing(dataset, fixed))
    found = low_resolution(full.grid, full.topology.voxels, lambda grid: drafter.patch_voxels("3d_lowres", grid))
    if found.grid is None:
        ledger.note("configurations", "no 3d_lowres", found.reason)
        return None
    return drafter.draft("3d_lowres", found.grid, Choice(found.grid.spacing, "coarser until a patch sees a quarter", found.reason))


def _fixed_spacing(dataset: Dataset, spacing: SpacingTriple) -> tuple[Grid, Choice[Spacing]]:
    grid = dataset.grid_at(spacing)
    return grid, Choice(grid.spacing, "set by the user", f"fixed at {triple_text(spacing)} mm")
