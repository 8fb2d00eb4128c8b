"""write_phantom_dataset: a synthetic dataset in nnU-Net v2's layout, for demonstrations and tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from autoseg3d.files import write_text
from autoseg3d.geometry import Geometry, turn
from autoseg3d.io import write_image, write_labels
from autoseg3d.phantom.anatomy import LABELS, build, draw_patient
from autoseg3d.phantom.appearance import render
from autoseg3d.phantom.shapes import rotation
from planners.contract import readable_json

Progress = Callable[[str, int, int], None]

_SHAPE = (32, 44, 60)
_SPACING_MM = (8.75, 5.35, 5.05)
_STORED = (
    ((0, 1, 2), (False, True, True)),
    ((0, 1, 2), (False, False, False)),
    ((1, 0, 2), (True, True, True)),
    ((2, 0, 1), (True, True, False)),
)
"""How scans lie in their files, as (axes, flips) of the canonical array: LPS as from DICOM, RAS, coronal, sagittal."""


def write_phantom_dataset(
    folder: Path | str, *, cases: int = 20, test_cases: int = 4, seed: int = 0, progress: Progress | None = None
) -> None:
    """Writes `cases` training cases and `test_cases` test scans of the synthetic abdomen into `folder`.

    The scans resemble T2-weighted MR of about 60×44×32 voxels of 5×5.3×8.8 mm: liver with a lesion, spleen, both
    kidneys, spine, and much that is not labelled. Patients differ in size, place and shape of everything; some scans
    are tilted, some stored in another orientation. The same arguments give the same bytes; case k does not depend on
    how many there are.

    Written are dataset.json, imagesTr/, labelsTr/, imagesTs/ and labelsTs/ (the truth for the test scans).
    Raises StorageError.
    """
    folder = Path(folder)
    plan = [("Tr", i) for i in range(cases)] + [("Ts", i) for i in range(test_cases)]
    for done, (part, index) in enumerate(plan):
        if progress:
            progress("make phantom", done, len(plan))
        case = f"phantom_{index + 1:03d}" if part == "Tr" else f"phantom_test_{index + 1:03d}"
        image, labels, geometry = make_case(np.random.default_rng((seed, part == "Ts", index)))
        write_image(folder / f"images{part}" / f"{case}_0000.nii.gz", image, geometry)
        write_labels(folder / f"labels{part}" / f"{case}.nii.gz", labels, geometry)
    document = {
        "name": "Phantom",
        "description": "Synthetic abdomens in the manner of T2-weighted MR; no patient data",
        "channel_names": {"0": "T2"},
        "labels": {"background": 0, **LABELS},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    write_text(folder / "dataset.json", readable_json(document))
    if progress:
        progress("make phantom", len(plan), len(plan))


def make_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """One scan and its truth as stored: (int16 image (Z, Y, X), uint8 labels (Z, Y, X), geometry)."""
    patient = draw_patient(rng)
    geometry = _draw_grid(rng)
    points = _points(geometry)
    shapes = build(points, patient)
    image = render(points, shapes, spacing_mm=geometry.spacing_mm, rng=rng)
    labels = np.zeros(geometry.shape, dtype=np.uint8)
    for organ, value in LABELS.items():
        labels[shapes[organ] < 0] = value
    axes, flips = _STORED[int(rng.choice(len(_STORED), p=(0.6, 0.2, 0.1, 0.1)))]
    scan, truth = (np.ascontiguousarray(turn(array, axes, flips)) for array in (np.rint(image).astype(np.int16), labels))
    return scan, truth, geometry.turned(axes, flips)


def _draw_grid(rng: np.random.Generator) -> Geometry:
    """A canonical grid around the origin, of slightly varied spacing, size and place; one in three is tilted."""
    spacing = np.array(_SPACING_MM) * np.exp(rng.normal(scale=0.04, size=3))
    spacing[2] = spacing[1]
    z, y, x = (int(n) for n in np.array(_SHAPE) + rng.integers(-2, 3, size=3))
    tilt = rng.uniform(-9, 9, size=3) if rng.random() < 1 / 3 else np.zeros(3)
    columns = rotation(tilt) * spacing[::-1]
    centre = rng.normal(scale=4, size=3)
    origin = centre - columns @ ((np.array([x, y, z]) - 1) / 2)
    return Geometry.from_affine((z, y, x), np.column_stack([columns, origin]))


def _points(geometry: Geometry) -> np.ndarray:
    """The voxel centres of a grid in mm: (3, Z, Y, X), x, y, z first."""
    z, y, x = np.indices(geometry.shape)
    matrix = geometry.matrix
    points: np.ndarray = np.einsum("ij,j...->i...", matrix[:3, :3], np.stack([x, y, z])) + matrix[:3, 3].reshape(3, 1, 1, 1)
    return points
