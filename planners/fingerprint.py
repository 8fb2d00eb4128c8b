"""Fingerprint: what a planner knows of a labelled dataset, case by case, in the axes of the stored files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from planners.contract import Contract, PositiveTriple, SpacingTriple
from planners.labels import LabelTable

Orientation = Literal["canonical", "as-stored"]
NonNegative = Annotated[float, Field(ge=0)]


class IntensityStatistics(Contract):
    """Intensities of one channel over foreground voxels (label > 0), every case weighing the same."""

    mean: float
    median: float
    std: NonNegative
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


class LabelObservation(Contract):
    """One label in one case.

    voxels       number of voxels; 0 where the label is absent
    volume_ml    voxels × voxel volume
    centroid     centre of mass as fractions of the field of view along (S, A, R) of the canonical orientation,
                 0 at the inferior, posterior and left end; None where absent
    touches_border   whether a voxel lies on the first or last slice of any axis
    components   number of 26-connected parts, None where it was not counted
    quantiles    5th, 50th and 95th percentile of the intensities inside, one triple per channel
    """

    voxels: int = Field(ge=0)
    volume_ml: NonNegative
    centroid: tuple[float, float, float] | None = None
    touches_border: bool = False
    components: int | None = None
    quantiles: tuple[tuple[float, float, float], ...] = ()


class CaseFingerprint(Contract):
    """One training case; triples in (z, y, x) order of the stored array.

    orientation   three letters for x, y, z of the stored array naming the direction in which each index grows
                  ("RAS", "LPS", …); None where a foreign fingerprint does not tell
    """

    id: str
    shape: PositiveTriple
    shape_after_crop: PositiveTriple
    spacing_mm: SpacingTriple
    orientation: str | None = Field(default=None, pattern="^[LRAPSI]{3}$")
    relative_size_after_crop: float = Field(gt=0, le=1)
    labels: dict[str, LabelObservation] = Field(default_factory=dict)

    def axes(self, orientation: Orientation) -> tuple[int, int, int]:
        """The stored array axis that lies along each axis of an array in `orientation` ((S, A, R) when canonical)."""
        if orientation == "as-stored" or self.orientation is None:
            return (0, 1, 2)
        stored = self.orientation[::-1]
        kinds = ("SI", "AP", "RL")
        first, second, third = (next(i for i, letter in enumerate(stored) if letter in kind) for kind in kinds)
        return (first, second, third)


class Fingerprint(Contract):
    """A labelled dataset as the planner sees it."""

    schema_version: Literal[1] = 1
    dataset_name: str
    channel_names: tuple[str, ...] = Field(min_length=1)
    labels: LabelTable
    num_training: int = Field(ge=1, description="training cases the dataset declares; nnU-Net's batch cap counts these")
    cases: tuple[CaseFingerprint, ...] = Field(min_length=1)
    intensities: tuple[IntensityStatistics, ...]
    median_relative_size_after_crop: float = Field(gt=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Fingerprint:
        if len(self.intensities) != len(self.channel_names):
            raise ValueError(f"{len(self.channel_names)} channel_names but {len(self.intensities)} intensities")
        return self

    def shapes(self, orientation: Orientation = "as-stored") -> np.ndarray:
        """Shapes after cropping, (cases, 3) int64, axes (z, y, x) of arrays in `orientation`."""
        return np.array([[c.shape_after_crop[a] for a in c.axes(orientation)] for c in self.cases], dtype=np.int64)

    def spacings(self, orientation: Orientation = "as-stored") -> np.ndarray:
        """Spacings in mm, (cases, 3) float64, axes (z, y, x) of arrays in `orientation`."""
        return np.array([[c.spacing_mm[a] for a in c.axes(orientation)] for c in self.cases], dtype=np.float64)


def fingerprint_from_nnunet(fingerprint: Mapping[str, Any], dataset: Mapping[str, Any], labels: LabelTable) -> Fingerprint:
    """The Fingerprint of nnU-Net's own dataset_fingerprint.json and dataset.json.

    Orientations are unknown there, so canonical and as-stored axes coincide. Raises KeyError or ValueError
    (pydantic's, naming the field) where the files do not hold what nnU-Net writes.
    """
    names = dataset.get("channel_names") or dataset["modality"]
    channels = tuple(str(names[key]) for key in sorted(names, key=int))
    relative = float(fingerprint["median_relative_size_after_cropping"])
    shapes: Sequence[Sequence[int]] = fingerprint["shapes_after_crop"]
    spacings: Sequence[Sequence[float]] = fingerprint["spacings"]
    if len(shapes) != len(spacings):
        raise ValueError(f"fingerprint holds {len(shapes)} shapes_after_crop but {len(spacings)} spacings")
    statistics = fingerprint["foreground_intensity_properties_per_channel"]
    return Fingerprint(
        dataset_name=str(dataset.get("name", "dataset")),
        channel_names=channels,
        labels=labels,
        num_training=int(dataset["numTraining"]),
        cases=tuple(
            CaseFingerprint.model_validate(
                {
                    "id": f"case_{i:05d}",
                    "shape": shape,
                    "shape_after_crop": shape,
                    "spacing_mm": spacing,
                    "relative_size_after_crop": relative,
                }
            )
            for i, (shape, spacing) in enumerate(zip(shapes, spacings, strict=True))
        ),
        intensities=tuple(IntensityStatistics.model_validate(statistics[str(i)]) for i in range(len(channels))),
        median_relative_size_after_crop=relative,
    )
