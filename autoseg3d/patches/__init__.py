"""Patches: which part of which case a sample shows, and the source that makes samples."""

from autoseg3d.patches.source import CaseReader, PatchSource, Reading

__all__ = ["CaseReader", "PatchSource", "Reading"]
