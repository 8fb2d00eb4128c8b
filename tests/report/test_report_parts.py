"""Small volumes lie where the scan lay, and hints say in which plain way a reference is wrong."""

import gzip

import nibabel
import numpy as np
import pytest

from autoseg3d.geometry import Geometry
from autoseg3d.report.hints import hints
from autoseg3d.report.volumes import SmallVolume, block_factors, small_volume
from planners.labels import label_table

LABELS = label_table({"background": 0, "liver": 1, "spleen": 2})
SHAPE = (24, 40, 44)
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 0, 4.0, -50], [0, 2.0, 0, 10], [0, 0, 0, 1]])


def _two() -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[6:14, 8:20, 6:18] = 1
    labels[6:14, 22:30, 22:36] = 2
    return labels


def _centres_mm(volume: SmallVolume, layer: int) -> np.ndarray:
    read = nibabel.Nifti1Image.from_bytes(gzip.decompress(volume.layers[layer]))
    return np.array([(read.affine @ [*np.argwhere(np.asanyarray(read.dataobj) == v).mean(axis=0), 1])[:3] for v in (1, 2)])


@pytest.mark.parametrize("max_voxels", [10**9, 8000, 1000])
def test_labels_and_image_stay_in_place_however_coarse(max_voxels: int) -> None:
    geometry, labels = Geometry.from_affine(SHAPE, AFFINE), _two()
    image = (100.0 * labels).astype(np.float32)
    volume = small_volume(image, [labels], geometry, max_voxels=max_voxels)
    read = nibabel.Nifti1Image.from_bytes(gzip.decompress(volume.image))
    assert np.prod(read.shape) <= max_voxels
    true = np.array([(AFFINE @ [*np.argwhere(labels == v).mean(axis=0)[::-1], 1])[:3] for v in (1, 2)])
    coarse = np.array(volume.factors[::-1]) * np.abs(AFFINE[:3, :3]).sum(axis=0)
    voxel = np.abs(AFFINE[:3, :3] / np.abs(AFFINE[:3, :3]).sum(axis=0)) @ coarse
    assert (np.abs(_centres_mm(volume, 0) - true) <= 0.51 * voxel).all()
    grey = np.asanyarray(read.dataobj)
    bright = (read.affine @ [*np.argwhere(grey > 0.9 * grey.max()).mean(axis=0), 1])[:3]
    assert (np.abs(bright - true[1]) <= 0.51 * voxel).all()


def test_the_finest_axis_is_made_coarse_first() -> None:
    assert block_factors((10, 100, 100), (5.0, 1.0, 1.0), 10 * 50 * 50) == (1, 2, 2)
    assert block_factors((4, 4, 4), (1.0, 1.0, 1.0), 64) == (1, 1, 1)
    assert (
        np.prod([-(-n // f) for n, f in zip((300, 512, 512), block_factors((300, 512, 512), (1, 0.7, 0.7), 10_000), strict=True)]) <= 10_000
    )


def test_the_same_volume_gives_the_same_bytes() -> None:
    made = [small_volume(np.ones(SHAPE, np.float32), [_two()], Geometry.from_affine(SHAPE, AFFINE), max_voxels=9999) for _ in range(2)]
    assert made[0] == made[1]
    assert made[0].reduced


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        (lambda a: np.where(a == 1, 2, np.where(a == 2, 1, a)), "liver and spleen look exchanged"),
        (lambda a: np.where(a == 2, 0, a), "spleen is not in the reference"),
        (lambda a: np.roll(a, 5, axis=0), "moved 20 mm forwards"),
        (lambda a: np.roll(a, -3, axis=2), "moved 6 mm to the right"),
        (lambda a: np.roll(a, 4, axis=1), "moved 8 mm up"),
        (lambda a: np.flip(a, 2), "mirrored left to right"),
        (lambda a: np.flip(a, 1), "mirrored upside down"),
    ],
)
def test_plain_mistakes_are_named(spoiled: object, words: str) -> None:
    found = hints(spoiled(_two()), _two(), Geometry.from_affine(SHAPE, AFFINE), LABELS)  # type: ignore[operator]
    assert any(words in hint for hint in found), found


def test_where_the_model_finds_nothing_that_is_said() -> None:
    labels = _two()
    (hint,) = hints(labels, np.where(labels == 1, 0, labels), Geometry.from_affine(SHAPE, AFFINE), LABELS)
    assert "liver has" in hint
    assert "finds none" in hint


def test_good_labels_and_ignored_voxels_get_no_hint() -> None:
    labels, geometry = _two(), Geometry.from_affine(SHAPE, AFFINE)
    assert hints(labels, labels, geometry, LABELS) == ()
    assert hints(np.zeros_like(labels), np.zeros_like(labels), geometry, LABELS) == ()
    ignored = label_table({"background": 0, "liver": 1, "spleen": 2, "ignore": 3})
    assert hints(np.where(labels == 2, 3, labels), labels, geometry, ignored) == ()
