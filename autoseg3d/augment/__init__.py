"""Augmentation: draw the random numbers of a sample first, then apply them. `reference` runs another library's."""

from autoseg3d.augment.applying import apply, apply_batch
from autoseg3d.augment.drawing import Drawn, Noise, draw
from autoseg3d.augment.spatial import read_box

__all__ = ["Drawn", "Noise", "apply", "apply_batch", "draw", "read_box"]
