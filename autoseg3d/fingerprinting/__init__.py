"""Fingerprinting: one pass over a labelled dataset that finds its faults and what planners need to know."""

from autoseg3d.fingerprinting.health import Finding
from autoseg3d.fingerprinting.observation import Observation
from autoseg3d.fingerprinting.survey import Survey, survey

__all__ = ["Finding", "Observation", "Survey", "survey"]
