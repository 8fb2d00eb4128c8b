"""ScoreRow: all measures of one case and label. What they are for empty masks is written in `autoseg3d.metrics`."""

from __future__ import annotations

import math

from pydantic import Field

from planners.contract import Contract

Part = Field(ge=0, le=1)
Count = Field(ge=0)

MEASURES = (
    "dice",
    "iou",
    "nsd",
    "hd95_mm",
    "assd_mm",
    "sensitivity",
    "precision",
    "volume_difference_ml",
    "volume_difference_percent",
    "lesion_f1",
    "brier",
    "ece",
)
"""The fields of a ScoreRow that are summarised over cases."""

DISTANCES = ("hd95_mm", "assd_mm")
"""The measures that are infinite where exactly one of the masks is empty."""


class ScoreRow(Contract):
    """One case and label (or region). Undefined measures are None, and so are infinite distances (see `value`).

    label                voxel value (for a region the value it is painted with)
    nsd_tolerance_mm     the tolerance that `nsd` was taken at
    volume_difference_*  prediction minus reference
    tp, fp, fn           voxels, without those that the reference says to ignore
    lesions_*            connected components in the reference, in the prediction, and matched pairs
    brier, ece           of the label's probability, where probabilities lie beside the prediction (see `calibration`)
    """

    case: str
    label: int = Field(ge=1)
    label_name: str
    dice: float | None = Part
    iou: float | None = Part
    nsd: float | None = Part
    hd95_mm: float | None = Field(ge=0)
    assd_mm: float | None = Field(ge=0)
    volume_reference_ml: float = Field(ge=0)
    volume_prediction_ml: float = Field(ge=0)
    volume_difference_ml: float
    sensitivity: float | None = Part
    precision: float | None = Part
    tp: int = Count
    fp: int = Count
    fn: int = Count
    volume_difference_percent: float | None
    nsd_tolerance_mm: float = Field(ge=0)
    lesions_reference: int = Count
    lesions_prediction: int = Count
    lesions_matched: int = Count
    lesion_f1: float | None = Part
    brier: float | None = Field(default=None, ge=0, le=1)
    ece: float | None = Field(default=None, ge=0, le=1)

    @property
    def missed(self) -> bool:
        """Whether the reference has this label and the prediction has none of it."""
        return self.tp + self.fp == 0 < self.fn

    @property
    def false_alarm(self) -> bool:
        """Whether the prediction has this label and the reference has none of it."""
        return self.tp + self.fn == 0 < self.fp

    def value(self, measure: str) -> float:
        """One of MEASURES as a float: NaN where undefined, infinite for the distance to an empty mask."""
        number = getattr(self, measure)
        if number is None:
            return math.inf if measure in DISTANCES and (self.missed or self.false_alarm) else math.nan
        return float(number)
