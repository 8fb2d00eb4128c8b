"""Trained networks for other programs: one file with the network, what its input and output mean, and proof that it runs."""

from autoseg3d.export.exporting import FORMATS, Exported, export_network

__all__ = ["FORMATS", "Exported", "export_network"]
