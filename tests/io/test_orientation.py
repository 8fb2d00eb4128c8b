"""One anatomy stored in all 48 signed axis orders: read back the same, and its labels written back the same."""

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_making import MakeNifti, turned_affine

from autoseg3d.geometry import turn, turn_back
from autoseg3d.io import read_volume, write_labels

ORDERS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
ANATOMY = np.random.default_rng(2).integers(-900, 900, (5, 6, 7)).astype(np.int16)  # z up, y front, x right


def _stored(anatomy: np.ndarray, affine: np.ndarray, order: tuple[int, ...], signs: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The anatomy and its affine in another storage order, turned by nibabel."""
    image = nib.Nifti1Image(anatomy.T, affine)
    turned = image.as_reoriented(np.column_stack([order, signs]))
    return np.asarray(turned.dataobj).T, turned.affine


@pytest.mark.parametrize(("order", "signs"), ORDERS)
@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (11.0, -17.0, 23.0)])
def test_48_ways_to_store_one_patient(
    make_nifti: MakeNifti, tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...], angles: tuple[float, float, float]
) -> None:
    affine = turned_affine(angles, (0.8, 0.9, 3.0), (-20.0, 40.0, -7.0))
    array, stored_affine = _stored(ANATOMY, affine, order, signs)
    for number, codes in enumerate([(1, 1), (1, 0), (0, 2)]):
        path = make_nifti(f"{number}.nii.gz", array, stored_affine, qform_code=codes[0], sform_code=codes[1])
        read = read_volume(path)
        axes, flips = read.geometry.to_canonical()
        assert np.array_equal(turn(read.array, axes, flips), ANATOMY)
        assert np.allclose(read.geometry.turned(axes, flips).matrix, affine, atol=1e-4)
        # a label map made on the canonical array goes back over the same voxels of the same file
        labels = turn_back((ANATOMY > 300).astype(np.int16), axes, flips)
        write_labels(tmp_path / "out.nii.gz", labels, read.geometry)
        out = nib.load(tmp_path / "out.nii.gz")
        assert np.array_equal(np.asarray(out.dataobj).T, array > 300)
        assert np.array_equal(out.affine, nib.load(path).affine)
        assert nib.aff2axcodes(out.affine) == tuple(read.geometry.orientation)
