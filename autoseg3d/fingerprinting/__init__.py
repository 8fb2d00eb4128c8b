"""Fingerprinting: one pass over a labelled dataset that finds its faults and what planners need to know."""

from autoseg3d.fingerprinting.survey import Survey, survey

__all__ = ["Survey", "survey"]
