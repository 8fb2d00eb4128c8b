"""Overrides: values a person fixes before planning, so that the rules decide the rest around them."""

from __future__ import annotations

from pydantic import Field

from planners.contract import Contract, PositiveTriple, SpacingTriple


class ConfigurationOverrides(Contract):
    """Fixed values of one configuration, triples in network-axis order (leading with 1 for 2d)."""

    spacing_mm: SpacingTriple | None = None
    patch_size: PositiveTriple | None = None
    batch_size: int | None = Field(default=None, ge=1)


class Overrides(Contract):
    """Constraints that a planner honours while it derives everything else.

    spacing_mm      target spacing of the whole dataset, along the (z, y, x) axes of arrays in the plan's orientation:
                    axis order and all resolutions follow from it
    architecture    the network family
    base_features   features of the finest stage
    configurations  values of single configurations, by name
    """

    spacing_mm: SpacingTriple | None = None
    architecture: str | None = None
    base_features: int | None = Field(default=None, ge=1, le=1024)
    configurations: dict[str, ConfigurationOverrides] = Field(default_factory=dict)

    def of(self, name: str) -> ConfigurationOverrides:
        """What is fixed for one configuration; the cascade works on the full-resolution grid and patch."""
        fixed = self.configurations.get(name, ConfigurationOverrides())
        if name != "3d_cascade_fullres":
            return fixed
        full = self.configurations.get("3d_fullres", ConfigurationOverrides())
        return full.model_copy(update={key: value for key, value in fixed if value is not None})


NO_OVERRIDES = Overrides()
