"""Which statement about space is believed, and which contradictions are refused (reference: faults, rows 6 to 15)."""

import nibabel as nib
import numpy as np
import pytest
from nifti_making import MakeNifti, turned_affine

from autoseg3d.errors import GeometryError
from autoseg3d.io import GeometryChoice, read_geometry, read_volume

AFFINE = turned_affine((4.0, 5.0, -6.0), (0.8, 0.8, 2.5), (-90.0, 40.0, -100.0))
SROWS = ("srow_x", "srow_y", "srow_z")


def _sform(matrix: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(SROWS, matrix[:3], strict=True))


def _refused(path: object, code: str, geometry: GeometryChoice = "auto") -> str:
    with pytest.raises(GeometryError) as caught:
        read_geometry(path, geometry=geometry)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert caught.value.remedy
    return str(caught.value)


@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (0, 4), (1, 0), (2, 1), (3, 3)])
def test_either_form_will_do(make_nifti: MakeNifti, volume: np.ndarray, codes: tuple[int, int]) -> None:
    read = read_volume(make_nifti("a.nii", volume, AFFINE, qform_code=codes[0], sform_code=codes[1]))
    assert np.allclose(read.geometry.matrix, AFFINE, atol=1e-4)
    assert read.notes == ()
    assert read.geometry.header is not None
    assert (read.geometry.header.qform_code, read.geometry.header.sform_code) == codes


@pytest.mark.parametrize("seed", range(60))
def test_the_quaternion_is_nibabels(make_nifti: MakeNifti, volume: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    affine = turned_affine(
        tuple(rng.choice([0, 90, 180, 45, 13.7, -179.9], 3)), tuple(rng.uniform(0.3, 4, 3)), tuple(rng.uniform(-200, 200, 3))
    )
    affine[:3, :3] *= rng.choice([-1, 1], 3)
    path = make_nifti("a.nii", volume, affine, sform_code=0)
    assert np.allclose(read_geometry(path).matrix, nib.load(path).get_qform(), atol=2e-3)


@pytest.mark.parametrize("angle", [180.0, 179.99, 179.95, 179.9, 179.5])
def test_rounding_near_a_half_turn_is_no_contradiction(make_nifti: MakeNifti, angle: float) -> None:
    affine = turned_affine((90.0, angle, angle), (0.5, 0.5, 0.5), (100.0, -80.0, 60.0))
    volume = np.zeros((400, 4, 512), dtype=np.uint8)
    assert read_volume(make_nifti("a.nii", volume, affine)).notes == ()


def test_forms_that_differ_by_a_shift(make_nifti: MakeNifti, volume: np.ndarray) -> None:
    shifted = AFFINE.copy()
    shifted[0, 3] += 5
    path = make_nifti("a.nii.gz", volume, AFFINE, **_sform(shifted))
    assert "6.25 voxels apart" in _refused(path, "E_QS_MISMATCH")
    for choice, wanted in (("sform", shifted), ("qform", AFFINE)):
        read = read_volume(path, geometry=choice)
        assert np.allclose(read.geometry.matrix, wanted, atol=1e-4)
        assert read.notes == (f"geometry taken from the {choice} as asked",)
    shifted[0, 3] = AFFINE[0, 3] + 0.05
    assert read_volume(make_nifti("b.nii.gz", volume, AFFINE, **_sform(shifted))).notes == ()


@pytest.mark.parametrize("choice", ["auto", "sform", "qform", "pixdim"])
@pytest.mark.parametrize("flip", [(-1, 1, 1), (1, -1, 1), (-1, -1, 1), (-1, 1, -1)])
def test_mirrored_forms_are_refused_whatever_is_asked(
    make_nifti: MakeNifti, volume: np.ndarray, choice: GeometryChoice, flip: tuple[int, ...]
) -> None:
    mirrored = np.diag([*flip, 1]) @ AFFINE
    _refused(make_nifti("a.nii.gz", volume, AFFINE, **_sform(mirrored)), "E_QS_MIRROR", choice)


def test_no_form_at_all(make_nifti: MakeNifti, volume: np.ndarray) -> None:
    path = make_nifti("a.nii.gz", volume, AFFINE, qform_code=0, sform_code=0)
    assert "--geometry pixdim" in _refused(path, "E_NO_ORIENT")
    _refused(path, "E_NO_ORIENT", "sform")
    _refused(path, "E_NO_ORIENT", "qform")
    read = read_volume(path, geometry="pixdim")
    assert read.geometry.orientation == nib.aff2axcodes(nib.load(path).affine)[0] + "AS" == "LAS"
    assert np.allclose(read.geometry.spacing_mm, (2.5, 0.8, 0.8))
    assert "no orientation in the header" in read.notes[0]


def test_spacing_of_acdc_as_shipped(make_nifti: MakeNifti, volume: np.ndarray) -> None:
    path = make_nifti("a.nii.gz", volume, np.diag([-1.0, -1, 1, 1]), qform_code=0, pixdim=[1, 1.5, 1.5, 10, 0, 0, 0, 0])
    text = _refused(path, "E_SPACING")
    assert "pixdim 1.5 1.5 10, axes 1 1 1" in text
    assert "--geometry pixdim" in text
    read = read_volume(path, geometry="pixdim")
    assert read.geometry.spacing_mm == (10, 1.5, 1.5)
    assert read.geometry.orientation == "LPS"
    assert read_volume(path, geometry="sform").geometry.spacing_mm == (1, 1, 1)
    assert read.geometry.header is not None
    assert read.geometry.header.srow_x == (-1, 0, 0, 0)


@pytest.mark.parametrize("value", [0.0, 1e-30, 8.0, np.nan, np.inf])
def test_pixdim_that_contradicts_the_sform(make_nifti: MakeNifti, volume: np.ndarray, value: float) -> None:
    _refused(make_nifti("a.nii", volume, AFFINE, qform_code=0, pixdim=[1, value, 0.8, 2.5, 0, 0, 0, 0]), "E_SPACING")


@pytest.mark.parametrize("choice", ["sform", "qform", "pixdim"])
def test_a_choice_that_changes_nothing_is_not_noted(make_nifti: MakeNifti, volume: np.ndarray, choice: GeometryChoice) -> None:
    read = read_volume(make_nifti("a.nii", volume, AFFINE), geometry=choice)
    assert np.allclose(read.geometry.matrix, AFFINE, atol=1e-4)
    assert read.notes == ()


def test_negative_pixdim_beside_a_good_sform_is_noted(make_nifti: MakeNifti, volume: np.ndarray) -> None:
    read = read_volume(make_nifti("a.nii", volume, AFFINE, qform_code=0, pixdim=[1, -0.8, 0.8, 2.5, 0, 0, 0, 0]))
    assert read.notes == ("negative spacing in pixdim was ignored",)
    _refused(make_nifti("b.nii", volume, AFFINE, sform_code=0, pixdim=[1, -0.8, 0.8, 2.5, 0, 0, 0, 0]), "E_GEOMETRY")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["srow_x", "srow_y", "srow_z"])
def test_a_form_that_is_not_finite(make_nifti: MakeNifti, volume: np.ndarray, name: str, value: float) -> None:
    row = AFFINE[SROWS.index(name)].copy()
    row[1] = value
    alone = make_nifti("a.nii", volume, AFFINE, qform_code=0, **{name: row})
    _refused(alone, "E_GEOMETRY")
    alike = read_volume(make_nifti("b.nii", volume, AFFINE, **{name: row}))
    assert alike.notes[0] == "the sform cannot be used; the qform was taken"
    assert np.allclose(alike.geometry.matrix, AFFINE, atol=1e-4)
    assert alike.geometry.header is not None  # written back, the row is 0
    _refused(make_nifti("c.nii", volume, AFFINE, qform_code=1, sform_code=4, **{name: row}), "E_GEOMETRY")


def test_singular_forms(make_nifti: MakeNifti, volume: np.ndarray) -> None:
    flat = AFFINE.copy()
    flat[:3, 2] = flat[:3, 1]
    for sform in (np.zeros((4, 4)), flat):
        _refused(make_nifti("a.nii", volume, AFFINE, qform_code=0, **_sform(sform)), "E_GEOMETRY")
    _refused(make_nifti("b.nii", volume, AFFINE, sform_code=0, quatern_b=0.9, quatern_c=0.9), "E_GEOMETRY")
    _refused(make_nifti("c.nii", volume, AFFINE, sform_code=-1), "E_GEOMETRY")


def test_shear(make_nifti: MakeNifti, volume: np.ndarray) -> None:
    def sheared(amount: float) -> np.ndarray:
        matrix = np.diag([0.8, 0.8, 2.5, 1.0])
        matrix[1, 2] = 2.5 * amount
        return matrix

    def make(amount: float, **codes: int) -> object:
        matrix = sheared(amount)
        pixdim = [1, *np.linalg.norm(matrix[:3, :3], axis=0), 0, 0, 0, 0]
        return make_nifti("a.nii", volume, np.diag([0.8, 0.8, 2.5, 1]), **_sform(matrix), pixdim=pixdim, **codes)

    small = read_volume(make(5e-4, qform_code=0))  # type: ignore[arg-type]
    assert small.notes == ("a shear of 0.0005 was taken out of the voxel grid",)
    axes = small.geometry.matrix[:3, :3]
    assert np.allclose(axes.T @ axes, np.diag([0.64, 0.64, 6.25]), atol=1e-5)
    tilted = read_volume(make(0.3, qform_code=0))  # type: ignore[arg-type]
    assert np.allclose(tilted.geometry.matrix, sheared(0.3), atol=1e-6)
    assert tilted.notes == ("sheared voxel grid (cosine between axes 0.287)",)
    _refused(make(0.7, qform_code=0), "E_SHEAR")


def test_a_qform_that_only_lacks_the_shear_agrees(make_nifti: MakeNifti) -> None:
    volume = np.zeros((40, 30, 20), dtype=np.int16)
    matrix = np.diag([0.8, 0.8, 2.5, 1.0])
    matrix[1, 2] = 0.8
    header = nib.Nifti1Header()
    header.set_qform(matrix, 2, strip_shears=True)
    fields = {name: header[name] for name in ("pixdim", "quatern_b", "quatern_c", "quatern_d", "qform_code")}
    path = make_nifti("a.nii.gz", volume, np.diag([0.8, 0.8, 2.5, 1]), **_sform(matrix), **fields)
    read = read_volume(path)
    assert np.allclose(read.geometry.matrix, matrix, atol=1e-6)
    assert read.notes == (
        "the qform cannot state the shear of the sform; the sform was taken",
        "sheared voxel grid (cosine between axes 0.305)",
    )
    fields["qoffset_x"] = 5.0
    _refused(make_nifti("b.nii.gz", volume, np.diag([0.8, 0.8, 2.5, 1]), **_sform(matrix), **fields), "E_QS_MISMATCH")


@pytest.mark.parametrize(("unit", "scale"), [(1, 1e-3), (3, 1e3)])
def test_other_units_are_converted_where_that_is_plausible(make_nifti: MakeNifti, volume: np.ndarray, unit: int, scale: float) -> None:
    matrix = AFFINE.copy()
    matrix[:3] *= scale
    read = read_volume(make_nifti("a.nii.gz", volume, matrix, xyzt_units=unit))
    assert np.allclose(read.geometry.matrix, AFFINE, atol=1e-3)
    assert "converted" in read.notes[0]
    _refused(make_nifti("b.nii.gz", volume, AFFINE, xyzt_units=unit), "E_UNIT")


def test_an_unstated_unit_is_millimetre_where_that_is_plausible(make_nifti: MakeNifti, volume: np.ndarray) -> None:
    assert read_volume(make_nifti("a.nii", volume, AFFINE, xyzt_units=0)).notes == ()
    assert "millimetre was assumed" in read_volume(make_nifti("b.nii", volume, AFFINE, xyzt_units=5)).notes[0]
    _refused(make_nifti("c.nii", volume, AFFINE @ np.diag([1e3, 1e3, 1e3, 1]), xyzt_units=0), "E_UNIT")


@pytest.mark.parametrize("spacing", [1e-3, 101.0, 1e4])
def test_implausible_spacing(make_nifti: MakeNifti, volume: np.ndarray, spacing: float) -> None:
    _refused(make_nifti("a.nii", volume, np.diag([spacing, 1, 1, 1])), "E_SPACING")


def test_unused_fields_that_are_not_finite_do_no_harm(make_nifti: MakeNifti, volume: np.ndarray) -> None:
    read = read_volume(make_nifti("a.nii", volume, AFFINE, qform_code=0, quatern_b=np.nan, qoffset_x=np.inf))
    assert np.allclose(read.geometry.matrix, AFFINE, atol=1e-4)
    assert read.notes == ("unused header fields that were not finite are written as 0",)
