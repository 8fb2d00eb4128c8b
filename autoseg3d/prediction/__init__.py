"""Prediction: a model package and scans in, label maps on each scan's own grid out, with a record and flags for each."""

from autoseg3d.prediction.batch import predict_scans
from autoseg3d.prediction.flags import Flag
from autoseg3d.prediction.options import PRESETS, PredictOptions
from autoseg3d.prediction.precision import foreground_agreement
from autoseg3d.prediction.predictor import Predictor
from autoseg3d.prediction.records import CaseRecord, CaseResult, exit_code
from autoseg3d.prediction.running import Prediction, run_members

__all__ = [
    "PRESETS",
    "CaseRecord",
    "CaseResult",
    "Flag",
    "PredictOptions",
    "Prediction",
    "Predictor",
    "exit_code",
    "foreground_agreement",
    "predict_scans",
    "run_members",
]
