"""What the phantom's tissues look like in a T2-weighted MR scan: grey values, texture, partial volume, bias field, noise."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from autoseg3d.phantom.shapes import Distance, Points, cover

_GREY = {
    "air": 12,
    "fat": 600,
    "muscle": 170,
    "lungs": 45,
    "heart": 210,
    "ribs": 190,
    "liver": 270,
    "spleen": 390,
    "kidney": 410,
    "medulla": 620,
    "sinus": 700,
    "spine": 340,
    "disc": 210,
    "canal": 880,
    "aorta": 60,
    "cava": 90,
    "stomach": 230,
    "gallbladder": 920,
    "lesion": 640,
    "bowel": 330,
    "pancreas": 300,
}
"""Mean grey value of each tissue, in the arbitrary units of an MR scanner."""


def render(points: Points, shapes: dict[str, Distance], *, spacing_mm: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """The scan of a patient: float32 (Z, Y, X), noisy and uneven, never below 0.

    Args:
        points: the voxel centres (3, Z, Y, X) in mm.
        shapes: signed distances by tissue, from `anatomy.build`.
        spacing_mm: (z, y, x), for textures of the same grain on every grid.
        rng: where the scan's own grey values, textures, bias field and noise come from.
    """
    grey = {tissue: value * np.exp(rng.normal(scale=0.06)) for tissue, value in _GREY.items()}
    grain = _Grain(shapes["skin"].shape, spacing_mm, rng)
    image = np.full(shapes["skin"].shape, float(grey["air"]))
    for distance, value in _layers(points, shapes, grey, grain):
        fraction = cover(distance, blur_mm=1.2 * min(spacing_mm))
        image += fraction * (value - image)
    image *= _bias(points, rng)
    sigma = rng.uniform(16, 30)
    image = np.exp(rng.uniform(-0.5, 0.5)) * np.hypot(
        image + rng.normal(scale=sigma, size=image.shape), rng.normal(scale=sigma, size=image.shape)
    )
    scan: np.ndarray = image.astype(np.float32)
    return scan


class _Grain:
    """Smooth random fields of mean 0 and standard deviation 1, with a grain given in mm."""

    def __init__(self, shape: tuple[int, ...], spacing_mm: tuple[float, float, float], rng: np.random.Generator) -> None:
        self._shape, self._spacing, self._rng = shape, spacing_mm, rng

    def __call__(self, grain_mm: float) -> np.ndarray:
        field = ndimage.gaussian_filter(self._rng.normal(size=self._shape), [grain_mm / s for s in self._spacing])
        result: np.ndarray = field / field.std()
        return result


def _layers(
    points: Points, shapes: dict[str, Distance], grey: dict[str, float], grain: _Grain
) -> list[tuple[Distance, np.ndarray | float]]:
    """(shape, grey value) from the skin inwards; each is painted over those before it."""
    folds = grain(10)
    bowel = np.where(np.abs(folds) < 0.22, grey["muscle"], grey["bowel"] * (1 + 0.7 * np.tanh(2 * grain(13))))
    belly = np.maximum(shapes["cavity"] + 7, np.maximum(points[2] - 18 - 10 * folds, -20 - points[1] - 8 * folds))
    vessels = 1 - 0.45 * (np.abs(grain(11)) < 0.16)
    liver = grey["liver"] * vessels * (1 + 0.05 * grain(4))
    level = np.where(points[1] > 48 + 6 * np.tanh(grain(30)), grey["air"], 3.0 * grey["stomach"])
    bone = grey["spine"] * (1 + 0.1 * grain(4))
    layers: list[tuple[Distance, np.ndarray | float]] = [
        (shapes["skin"], grey["muscle"]),
        (shapes["skin"] + 3, grey["fat"] * (1 + 0.05 * grain(12))),
        (shapes["wall"], grey["muscle"] * (1 + 0.12 * grain(3))),
        (shapes["ribs"], 0.4 * grey["ribs"]),
        (shapes["ribs"] + 2.5, grey["ribs"]),
        (shapes["cavity"], grey["fat"] * (0.92 + 0.06 * grain(8))),
        (shapes["muscles"], grey["muscle"] * (1 + 0.15 * grain(3))),
        (belly, bowel),
        (shapes["pancreas"], grey["pancreas"] * (1 + 0.12 * grain(4))),
        (shapes["lungs"], grey["lungs"] * (1 + 0.3 * grain(5))),
        (shapes["heart"], grey["heart"] * (1 + 0.4 * np.tanh(2 * grain(16)))),
        (shapes["stomach"], grey["muscle"]),
        (shapes["stomach"] + 5, level),
        (shapes["spine"], 0.45 * bone),
        (shapes["spine"] + 2.5, bone),
        (shapes["disc"], grey["disc"]),
        (shapes["disc"] + 7, 1.9 * grey["disc"]),
        (shapes["canal"], grey["canal"]),
        (shapes["canal"] + 5, 0.45 * grey["canal"]),
        (shapes["liver"], liver),
        (shapes["lesion"], grey["lesion"] * (1 + 0.1 * grain(4))),
        (shapes["spleen"], grey["spleen"] * (1 + 0.06 * grain(3))),
        (shapes["gallbladder"], grey["gallbladder"]),
        (shapes["aorta"], grey["aorta"]),
        (shapes["cava"], grey["cava"]),
    ]
    for side in ("kidney_left", "kidney_right"):
        pyramids = grey["medulla"] * (1 + 0.12 * np.tanh(2 * grain(6)))
        layers += [(shapes[side], grey["kidney"]), (np.maximum(shapes[f"{side} medulla"], shapes[side] + 3), pyramids)]
        layers += [(np.maximum(shapes[f"{side} sinus"], shapes[side] - 4), grey["sinus"] * (1 + 0.1 * grain(4)))]
    return layers


def _bias(points: Points, rng: np.random.Generator) -> np.ndarray:
    """A slow change of brightness over the scan, as coils make it: by up to about a third."""
    bias = np.zeros(points.shape[1:])
    for _ in range(4):
        direction = rng.normal(size=3)
        direction *= 2 * np.pi / rng.uniform(350, 700) / np.linalg.norm(direction)
        bias += rng.normal(scale=0.09) * np.sin(np.tensordot(direction, points, axes=1) + rng.uniform(0, 2 * np.pi))
    return np.exp(bias)
