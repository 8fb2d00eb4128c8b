"""One patient of the phantom: where the organs lie. Lengths in mm, x to the patient's right, y to the front, z upwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoseg3d.phantom.shapes import Distance, Points, Vector, cut, ellipsoid, join, meet, turned

LABELS = {"liver": 1, "spleen": 2, "kidney_left": 3, "kidney_right": 4, "spine": 5, "lesion": 6}
"""The labelled organs and their values in the label maps."""


@dataclass(frozen=True)
class Patient:
    """What differs between patients, drawn once.

    size     scale of the whole body, 1 on average
    fat_mm   thickness of the fat under the skin
    shift    displacement of each organ's centre in mm, (3,) by organ
    scale    scale of each organ by axis, (3,) by organ
    tilt     rotation of each organ in degrees, (3,) by organ
    waves    directions (n, 3) in 1/mm, phases (n,) and amplitudes (n, 3) in mm of the bend of all tissue
    lesion   which of the places deep in the liver it has (0 to 1), the direction of its lobe, and its radius in mm
    """

    size: float
    fat_mm: float
    shift: dict[str, np.ndarray]
    scale: dict[str, np.ndarray]
    tilt: dict[str, np.ndarray]
    waves: tuple[np.ndarray, np.ndarray, np.ndarray]
    lesion: tuple[float, np.ndarray, float]


_ORGANS = (
    "liver",
    "left lobe",
    "spleen",
    "kidney_left",
    "kidney_right",
    "spine",
    "stomach",
    "gallbladder",
    "pancreas",
    "aorta",
    "cava",
    "heart",
)


def draw_patient(rng: np.random.Generator) -> Patient:
    """A patient from a random generator."""
    n = 8
    directions = _unit(rng.normal(size=(n, 3))) * 2 * np.pi / rng.uniform(140, 320, size=(n, 1))
    return Patient(
        size=float(rng.uniform(0.93, 1.04)),
        fat_mm=float(rng.uniform(7, 19)),
        shift={organ: rng.normal(scale=4, size=3) for organ in _ORGANS},
        scale={organ: np.exp(rng.normal(scale=0.06, size=3)) for organ in _ORGANS},
        tilt={organ: rng.normal(scale=6, size=3) for organ in _ORGANS},
        waves=(directions, rng.uniform(0, 2 * np.pi, size=n), rng.normal(scale=1.8, size=(n, 3))),
        lesion=(float(rng.random()), _unit(rng.normal(size=3)), float(rng.uniform(15, 21))),
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


def bend(points: Points, patient: Patient) -> Points:
    """Points of the patient carried to the upright template: a sum of slow waves, so smooth and without folds."""
    directions, phases, amplitudes = patient.waves
    moved = points / patient.size
    for direction, phase, amplitude in zip(directions, phases, amplitudes, strict=True):
        wave = np.sin(np.tensordot(direction, points, axes=1) + phase)
        moved = moved + amplitude.reshape(3, 1, 1, 1) * wave
    return moved


def build(points: Points, patient: Patient) -> dict[str, Distance]:
    """Signed distances of every tissue at `points` (3, Z, Y, X) in mm, by name; organs do not overlap."""
    p = bend(points, patient)
    shapes = _trunk(p, patient)
    shapes |= _spine(p, patient)
    shapes |= _vessels(p, patient)
    inside = shapes["cavity"] + 3
    for side, sign in (("kidney_left", -1), ("kidney_right", 1)):
        shapes |= _kidney(p, patient, side, sign)
    stomach = meet(_organ(p, patient, "stomach", (-48, 30, 42), (40, 42, 56)), cut(inside, shapes["lungs"]), 6)
    gallbladder = _organ(p, patient, "gallbladder", (44, 52, 2), (13, 22, 16))
    shapes["gallbladder"] = gallbladder
    liver = _liver(p, patient, inside)
    for other in (shapes["kidney_right"], shapes["cava"], gallbladder, shapes["spine"]):
        liver = cut(liver, other - 3, 5)
    liver = cut(liver, ellipsoid(p, (14, -52, -30), (44, 46, 74)), 8)
    shapes["liver"] = cut(liver, shapes["lungs"] - 3, 4)
    spleen = meet(_organ(p, patient, "spleen", (-82, -32, 42), (34, 50, 56)), inside, 5)
    spleen = cut(cut(spleen, ellipsoid(p, (-46, 8, 40), (36, 44, 60)), 8), shapes["kidney_left"] - 3, 4)
    shapes["spleen"] = cut(spleen, shapes["lungs"] - 3, 4)
    shapes["stomach"] = cut(cut(cut(stomach, shapes["liver"] - 3, 3), shapes["spleen"] - 3, 3), shapes["lungs"] - 4, 3)
    shapes["pancreas"] = cut(_organ(p, patient, "pancreas", (-12, 14, -2), (62, 10, 13)), shapes["stomach"] - 3, 3)
    shapes["lesion"] = _lesion(p, patient, shapes["liver"])
    return shapes


def _organ(p: Points, patient: Patient, organ: str, centre: Vector, radii: Vector) -> Distance:
    """An ellipsoid at the patient's own place, size and tilt for this organ."""
    middle = np.asarray(centre) + patient.shift[organ]
    return ellipsoid(turned(p, middle, patient.tilt[organ]), middle, np.asarray(radii) * patient.scale[organ])


def _trunk(p: Points, patient: Patient) -> dict[str, Distance]:
    """Skin, muscle wall, the cavity within it, ribs, and the lungs and heart above the domes of the diaphragm."""
    waist = 7 * np.sin((p[2] + 40) / 48) * (np.abs(p[0]) / 140)
    skin = ellipsoid(p, (0, 0, 0), (140, 100, np.inf)) - waist
    skin = cut(skin, ellipsoid(p, (0, -104, 0), (36, 12, np.inf)), 18)
    wall = skin + patient.fat_mm * (1 + 0.35 * p[1] / 100)
    cavity = meet(wall + 11, ellipsoid(p, (0, 18, 0), (132, 92, np.inf)), 10)
    right_dome = ellipsoid(p, np.array([58, 2, 6]) + patient.shift["liver"] * (0, 0, 1), (84, 96, 96))
    left_dome = ellipsoid(p, np.array([-60, 2, 4]) + patient.shift["spleen"] * (0, 0, 1), (80, 96, 84))
    heart = _organ(p, patient, "heart", (-18, 38, 122), (58, 48, 44))
    middle = ellipsoid(p, (0, -30, 100), (34, 30, np.inf))
    lungs = meet(cavity + 3, 8 - p[2], 8)
    for other in (right_dome, left_dome, heart, middle):
        lungs = cut(lungs, other, 8)
    phase = (p[2] + 0.55 * p[1] + 200) % 29 - 14.5
    ribs = meet(np.abs(wall + 8) - 4, meet(np.abs(phase) - 5.5, -30 - p[2], 3), 3)
    return {"skin": skin, "wall": wall, "cavity": cavity, "lungs": lungs, "heart": meet(heart, cavity + 4, 4), "ribs": ribs}


def _spine(p: Points, patient: Patient) -> dict[str, Distance]:
    """Vertebral bodies with discs between them, arches and spinous processes around the canal, and the muscles beside."""
    curve = 7 * np.sin((p[2] + 20) / 75) + patient.shift["spine"][1]
    q = np.stack([p[0] - 0.5 * patient.shift["spine"][0], p[1] - curve, p[2]])
    along = (q[2] + 300) % 34 - 17
    waist = 1.5 * np.cos(along / 17 * np.pi)
    body = ellipsoid(q, (0, -40, 0), (24, 19, np.inf)) + waist
    canal = ellipsoid(q, (0, -66, 0), (10, 8.5, np.inf))
    arch = cut(ellipsoid(q, (0, -64, 0), (17, 16, np.inf)), canal)
    process = meet(ellipsoid(q, (0, -80, 0), (5.5, 15, np.inf)), np.abs(along) - 12, 3)
    wing = meet(ellipsoid(q, (0, -64, 0), (40, 6.5, np.inf)), np.abs(along) - 7, 3)
    bones = cut(join(join(join(body, arch, 5), process, 5), wing, 5), canal)
    muscles = join(ellipsoid(q, (32, -82, 0), (28, 17, np.inf)), ellipsoid(q, (-32, -82, 0), (28, 17, np.inf)))
    psoas = np.minimum(*(ellipsoid(q, (sign * 38, -40, -95), (17, 18, 105)) for sign in (-1, 1)))
    return {"spine": bones, "canal": canal, "disc": meet(body, 13 - np.abs(along), 2), "muscles": join(muscles, psoas)}


def _vessels(p: Points, patient: Patient) -> dict[str, Distance]:
    aorta, cava = patient.shift["aorta"] / 2, patient.shift["cava"] / 2
    return {
        "aorta": ellipsoid(p, (-12 + aorta[0], -8 + aorta[1], 0), (10.5, 10.5, np.inf)),
        "cava": ellipsoid(p, (20 + cava[0], -10 + cava[1], 0), (12, 9.5, np.inf)),
    }


def _kidney(p: Points, patient: Patient, side: str, sign: int) -> dict[str, Distance]:
    """A bean around its sinus: an ellipsoid that leans outwards, with the hilum cut in from the middle of the body."""
    centre = np.array([sign * 66.0, -38.0, -22.0 if sign < 0 else -30.0]) + patient.shift[side]
    tilt = patient.tilt[side] + (8, -sign * 10, sign * 20)
    q = turned(p, centre, tilt)
    radii = np.array([29.0, 26.0, 55.0]) * patient.scale[side]
    hilum = ellipsoid(q, centre - (sign * 30, -6, 0), (20, 12, 19))
    whole = cut(ellipsoid(q, centre, radii), hilum, 8)
    return {
        side: whole,
        f"{side} medulla": ellipsoid(q, centre, radii - (9, 9, 10)),
        f"{side} sinus": ellipsoid(q, centre - (sign * 8, -2, 0), (13, 9, 24)),
    }


def _liver(p: Points, patient: Patient, inside: Distance) -> Distance:
    """The right lobe fills its dome down to a slanting lower face; the left lobe reaches across the midline in front."""
    centre = np.array([60.0, 2.0, 4.0]) + patient.shift["liver"] * (0.5, 0.5, 1)
    right = ellipsoid(p, centre, np.array([80.0, 92.0, 90.0]) * patient.scale["liver"])
    normal = np.array([0.72, -0.12, 0.9]) / np.linalg.norm([0.72, -0.12, 0.9])
    lower = -(np.tensordot(normal, p, axes=1) - normal @ (np.array([62.0, 0.0, -48.0]) + patient.shift["gallbladder"]))
    right = meet(right, lower, 16)
    left = _organ(p, patient, "left lobe", (4, 48, 50), (66, 34, 32))
    return meet(join(right, left, 16), inside, 6)


def _lesion(p: Points, patient: Patient, liver: Distance) -> Distance:
    """A slightly lobed ball well inside the liver; where the liver is too thin for it, at its deepest place."""
    place, lobe, radius = patient.lesion
    deep = np.argwhere(liver < min(-0.7 * radius, float(liver.min()) + 1))
    z, y, x = deep[int(place * len(deep))]
    centre = p[:, z, y, x]
    ball = ellipsoid(p, centre, (radius, radius * 0.9, radius * 1.05))
    bulge = ellipsoid(p, centre + 0.6 * radius * lobe, (radius * 0.7,) * 3)
    return meet(join(ball, bulge, 6), liver + 2)
