"""Laws of orientation: the same anatomy gives the same labels however it is stored, each on its own grid, sides never swapped."""

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tiny import Slope, case, configuration, plan

from autoseg3d.io import CaseFiles, load_case, write_labels
from autoseg3d.prediction import Predictor

# Millimetres per voxel along S, A, R, and an odd size along each.
SPACING = (2.5, 1.5, 1.0)
SHAPE = (9, 12, 19)
OBLIQUE = [(0.0, 0.0, 0.0), (0.1, -0.2, 0.15), (-0.3, 0.25, 0.35)]
SIGNED_ORDERS = list(product(permutations(range(3)), product((False, True), repeat=3)))
SPATIAL_FIELDS = ("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
SPATIAL_FIELDS += ("srow_x", "srow_y", "srow_z", "xyzt_units")


def anatomy() -> np.ndarray:
    """(S, A, R): two organs that differ by side alone; the left one rises towards the right, the right one falls."""
    image = np.full(SHAPE, 7.0, np.float32)
    image[2:6, 3:9, 3:8] = 7 + 3 * np.arange(5)
    image[3:8, 2:7, 11:16] = 7 - 3 * np.arange(5)
    return image


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        result = turn @ result
    return result


def stored(
    order: tuple[int, int, int], flips: tuple[bool, bool, bool], angles: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The anatomy as (x, y, z) voxels stored in a signed axis order, with the affine that puts it where it belongs."""
    canonical = anatomy().transpose(2, 1, 0)
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) @ np.diag(SPACING[::-1])
    affine[:3, 3] = (-20.5, 30.25, -11.0)
    array, turned = canonical.transpose(order), affine.copy()
    turned[:3, :3] = affine[:3, list(order)]
    for axis, flip in enumerate(flips):
        if flip:
            turned[:3, 3] += turned[:3, axis] * (array.shape[axis] - 1)
            turned[:3, axis] *= -1
            array = np.flip(array, axis)
    return array, turned


def back(labels: np.ndarray, order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> np.ndarray:
    """A stored (x, y, z) array as (S, A, R)."""
    array = labels[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return array.transpose(np.argsort(order)).transpose(2, 1, 0)


RESAMPLED = (2.0, 1.2, 0.9)


@pytest.mark.parametrize(("angles", "spacing"), [*((angles, SPACING) for angles in OBLIQUE), (OBLIQUE[2], RESAMPLED)])
def test_all_orientations_give_the_same_labels(
    tmp_path: Path, angles: tuple[float, float, float], spacing: tuple[float, float, float]
) -> None:
    chosen = plan(configuration((4, 8, 8), spacing), mirror_axes=())
    predictor = Predictor(chosen, "3d_fullres", [Slope()], device="cpu", precision="fp32")
    expected: np.ndarray | None = None
    for number, (order, flips) in enumerate(SIGNED_ORDERS):
        array, affine = stored(order, flips, angles)  # type: ignore[arg-type]
        path, out = tmp_path / f"{number}.nii", tmp_path / f"{number}_labels.nii"
        image = nibabel.Nifti1Image(array, affine)
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=2)
        nibabel.save(image, path)
        loaded = load_case(CaseFiles(str(number), (path,)), labels=None)
        write_labels(out, predictor.predict(loaded.case).labels, loaded.native)
        before, after = nibabel.load(path), nibabel.load(out)
        assert after.shape == before.shape
        for field in SPATIAL_FIELDS:
            assert after.header[field].tobytes() == before.header[field].tobytes(), field
        labels = back(np.asarray(after.dataobj), order, flips)  # type: ignore[arg-type]
        if expected is None:
            expected = labels
            assert (labels[3:5, 4:8, 4:7] == 1).all()
            assert (labels[4:7, 3:6, 12:15] == 2).all()
        assert (labels == expected).all(), (order, flips)
    assert len(SIGNED_ORDERS) == 48


def test_an_as_stored_plan_keeps_the_order_of_the_file() -> None:
    """Such a model sees axes as they are filed: the labels follow the voxels, not the patient."""
    chosen = plan(configuration((4, 8, 8), SPACING), orientation="as-stored", mirror_axes=())
    predictor = Predictor(chosen, "3d_fullres", [Slope()], device="cpu", precision="fp32")
    labels = predictor.predict(case(anatomy(), SPACING)).labels
    mirrored = predictor.predict(case(anatomy()[:, :, ::-1].copy(), SPACING)).labels
    assert (mirrored[:, :, ::-1] == np.array([0, 2, 1])[labels]).all()
