"""Prediction: a model package and scans in, label maps on each scan's own grid out, with a record and flags for each."""

from autoseg3d.prediction.batch import PredictOptions, predict_scans
from autoseg3d.prediction.flags import Flag
from autoseg3d.prediction.precision import foreground_agreement
from autoseg3d.prediction.predictor import Prediction, Predictor
from autoseg3d.prediction.records import CaseRecord, CaseResult, exit_code

__all__ = [
    "CaseRecord",
    "CaseResult",
    "Flag",
    "PredictOptions",
    "Prediction",
    "Predictor",
    "exit_code",
    "foreground_agreement",
    "predict_scans",
]
