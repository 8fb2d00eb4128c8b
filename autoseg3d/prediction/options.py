"""What a person may choose about a prediction, and presets of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from autoseg3d.io import GeometryChoice
from autoseg3d.prediction.backends import Backend
from autoseg3d.prediction.body import Crop
from autoseg3d.prediction.precision import Precision
from autoseg3d.prediction.predictor import SLAB_LIMIT_BYTES
from planners.contract import Contract

Preset = Literal["fast", "default", "best"]

# What each preset sets; benchmarks/presets.py measures what it costs and how far its labels agree with the default.
PRESETS: dict[Preset, dict[str, Any]] = {
    "fast": {"mirror": False, "step": 0.75},
    "default": {"mirror": True, "step": 0.5},
    "best": {"mirror": True, "step": 0.25, "precision": "fp32"},
}


class PredictOptions(Contract):
    """What a person may choose about a prediction.

    configurations    whose probabilities are averaged, of every model; where None those that `select` chose for the model, else
                      its default one
    folds             all that are trained where None
    seconds_per_case  mirroring, step and folds are chosen for each case so that it takes about so long; those given are then
                      the best that may be chosen
    timeout_seconds   a case that takes longer fails, and the others go on
    crop              "body": only a box around the body is computed, in CT; everything outside is background
    postprocess       apply what the model says about removing parts; probabilities are of before that
    uncertainty       also write the entropy of every voxel, and compare the folds with each other
    max_memory_bytes  bound of the memory of the process, forecast and kept; None bounds the slab only
    slab_limit_bytes  bound of the slab of logits held at a time
    """

    configurations: tuple[str, ...] | None = None
    folds: tuple[str, ...] | None = None
    mirror: bool = True
    step: float = Field(default=0.5, gt=0, le=1)
    precision: Precision = "auto"
    device: str = "auto"
    backend: Backend = "torch"
    crop: Crop = "none"
    save_probabilities: bool = False
    postprocess: bool = True
    uncertainty: bool = False
    geometry: GeometryChoice = "auto"
    seconds_per_case: float | None = Field(default=None, gt=0)
    timeout_seconds: float | None = Field(default=None, gt=0)
    max_memory_bytes: int | None = Field(default=None, ge=1)
    slab_limit_bytes: int = Field(default=SLAB_LIMIT_BYTES, ge=1)

    @classmethod
    def of_preset(cls, preset: Preset, **chosen: Any) -> PredictOptions:
        """The options of a preset; whatever is in `chosen` and not None counts more."""
        return cls(**{**PRESETS[preset], **{name: value for name, value in chosen.items() if value is not None}})

    def relevant(self) -> dict[str, Any]:
        """All that the labels may depend on: bounds of memory and time change how a case is computed, not what comes out."""
        return self.model_dump(mode="json", exclude={"slab_limit_bytes", "max_memory_bytes", "timeout_seconds"})
