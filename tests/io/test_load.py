"""A case is loaded only when channels, labels and table agree; what was mended is said."""

import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nifti_making import MakeNifti, turned_affine

from autoseg3d.errors import Autoseg3dError, DataError
from autoseg3d.geometry import Geometry, turn
from autoseg3d.io import CaseFiles, load_case, read_volume, write_labels
from planners.labels import LabelTable, label_table

TABLE = label_table({"background": 0, "liver": 1, "spleen": 2})
RNG = np.random.default_rng(0)
IMAGE = RNG.normal(100, 30, (8, 9, 10)).astype(np.float32)
LABELS = RNG.integers(0, 3, (8, 9, 10)).astype(np.uint8)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def _code(files: CaseFiles, labels: LabelTable | None = TABLE, **options: Any) -> str:
    with pytest.raises(Autoseg3dError) as caught:
        load_case(files, labels=labels, **options)
    assert caught.value.case == files.id
    return caught.value.code


def test_a_case_for_training_and_for_prediction(make_nifti: MakeNifti) -> None:
    images = (make_nifti("a_0000.nii.gz", IMAGE, AFFINE), make_nifti("a_0001.nii.gz", -IMAGE, AFFINE))
    files = CaseFiles("a", images, make_nifti("labels/a.nii.gz", LABELS, AFFINE), group="p")
    loaded = load_case(files, labels=TABLE)
    assert loaded.case.id == "a"
    assert np.array_equal(loaded.case.image, np.stack([IMAGE, -IMAGE]))
    assert loaded.case.image.dtype == np.float32
    assert np.array_equal(loaded.case.labels, LABELS)  # type: ignore[arg-type]
    assert loaded.notes == ()
    assert loaded.native == loaded.case.geometry
    assert loaded.to_native(LABELS) is LABELS
    assert load_case(files, labels=None).case.labels is None


def test_a_label_map_must_be_there_for_training(make_nifti: MakeNifti) -> None:
    assert _code(CaseFiles("a", (make_nifti("a.nii", IMAGE, AFFINE),))) == "E_MISSING"


def test_a_known_fault_is_raised_with_its_case(make_nifti: MakeNifti) -> None:
    files = CaseFiles("a", (make_nifti("a.nii", IMAGE, AFFINE),), fault=DataError("two channels", code="E_CHANNEL"))
    assert _code(pickle.loads(pickle.dumps(files)), labels=None) == "E_CHANNEL"


@pytest.mark.parametrize(
    ("affine", "code"),
    [
        (np.diag([1.0, -1.0, 2.0, 1.0]), "E_ALIGN"),  # mirrored
        (np.diag([-2.0, -2.0, 4.0, 1.0]), "E_ALIGN"),
        (AFFINE + np.pad([[50.0]], ((0, 3), (3, 0))), "E_ALIGN"),
        (AFFINE + np.pad([[0.2]], ((0, 3), (3, 0))), "E_ALIGN"),
        (AFFINE + np.pad([[0.05]], ((0, 3), (3, 0))), None),
    ],
)
def test_labels_lie_where_the_image_lies(make_nifti: MakeNifti, affine: np.ndarray, code: str | None) -> None:
    files = CaseFiles("a", (make_nifti("a.nii", IMAGE, AFFINE),), make_nifti("l.nii", LABELS, affine))
    if code is None:
        assert load_case(files, labels=TABLE).notes == ()
    else:
        assert _code(files) == code


@pytest.mark.parametrize(("axes", "code"), [((0, 1, 2), "E_ALIGN"), ((2, 0, 1), "E_SHAPE")])
def test_a_label_map_in_another_order_is_told_not_turned(make_nifti: MakeNifti, axes: tuple[int, int, int], code: str) -> None:
    """A header mirrored by mistake looks the same, so a person must look."""
    flips = (False, True, True)
    grid = Geometry.from_affine(LABELS.shape, AFFINE).turned(axes, flips)
    label = make_nifti("l.nii", np.ascontiguousarray(turn(LABELS, axes, flips)), grid.matrix)
    with pytest.raises(DataError, match="in another order") as caught:
        load_case(CaseFiles("a", (make_nifti("a.nii", IMAGE, AFFINE),), label), labels=TABLE)
    assert caught.value.code == code


def test_a_label_map_of_a_series_is_turned_to_the_order_of_its_slices(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from test_dicom import make_series

    series = make_series(tmp_path / "s")
    image = read_volume(series)
    marked = (image.array > 0).astype(np.uint8)
    axes, flips = (1, 0, 2), (True, False, True)
    write_labels(tmp_path / "l.nii.gz", np.ascontiguousarray(turn(marked, axes, flips)), image.geometry.turned(axes, flips))
    loaded = load_case(CaseFiles("a", (series,), tmp_path / "l.nii.gz"), labels=label_table({"background": 0, "bright": 1}))
    assert np.array_equal(loaded.case.labels, marked)  # type: ignore[arg-type]
    assert any("turned from" in note for note in loaded.notes)


def test_both_shapes_are_named(make_nifti: MakeNifti) -> None:
    files = CaseFiles("a", (make_nifti("a.nii", IMAGE, AFFINE),), make_nifti("l.nii", LABELS[:-1], AFFINE))
    with pytest.raises(DataError, match="wanted 10×9×8; got 10×9×7") as caught:
        load_case(files, labels=TABLE)
    assert caught.value.code == "E_SHAPE"


def test_unexpected_values_are_counted_and_placed(make_nifti: MakeNifti) -> None:
    labels = LABELS.astype(np.int16)
    labels[3, 4, 5], labels[6, 0, 0], labels[7, 1, 2] = 7, 7, -1
    files = CaseFiles("a", (make_nifti("a.nii", IMAGE, AFFINE),), make_nifti("l.nii", labels, AFFINE))
    with pytest.raises(DataError) as caught:
        load_case(files, labels=TABLE)
    assert caught.value.code == "E_LABEL"
    assert caught.value.got == "-1 in 1 voxel, first at x=2 y=1 z=7; 7 in 2 voxels, first at x=5 y=4 z=3"
    gaps = label_table({"background": 0, "one": 1, "two": 2, "seven": 7, "ignore": 255})
    labels[labels == -1] = 255
    files = CaseFiles("a", files.images, make_nifti("l.nii", labels, AFFINE))
    assert np.array_equal(load_case(files, labels=gaps).case.labels, labels)  # type: ignore[arg-type]


def test_images_without_content(make_nifti: MakeNifti) -> None:
    flat = make_nifti("flat.nii", np.full_like(IMAGE, 5), AFFINE)
    label = make_nifti("l.nii", LABELS, AFFINE)
    for labels in (TABLE, None):
        assert _code(CaseFiles("a", (flat,), label), labels) == "E_CONSTANT"
        assert _code(CaseFiles("a", (make_nifti("a.nii", IMAGE, AFFINE), flat), label), labels) == "E_CONSTANT"


def test_nonfinite_voxels_are_refused_in_training_and_replaced_in_prediction(make_nifti: MakeNifti) -> None:
    image = RNG.normal(0, 1, (20, 20, 20)).astype(np.float32)
    image[1, 2, 3] = np.nan
    label = make_nifti("l.nii", np.zeros((20, 20, 20), dtype=np.uint8), AFFINE)
    files = CaseFiles("a", (make_nifti("a.nii", image, AFFINE),), label)
    assert _code(files) == "E_NONFINITE"
    loaded = load_case(files, labels=None)
    assert loaded.case.image[0, 1, 2, 3] == np.nanmin(image)
    assert loaded.notes == ("a.nii: NaN or infinite voxels took the smallest finite value: 1",)
    files = CaseFiles("a", (make_nifti("a.nii", image, AFFINE), make_nifti("b.nii", IMAGE, AFFINE)))
    assert len(load_case(files, labels=None).notes) == 2


def test_channels_on_other_grids_are_resampled_to_the_first(make_nifti: MakeNifti) -> None:
    """A smooth field of the patient's space, sampled on two grids, is the same on the first one."""

    def sampled(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
        z, y, x = np.indices(shape)
        world = np.einsum("ij,jzyx->izyx", affine[:3], np.stack([x, y, z, np.ones_like(x)]))
        return np.tensordot((1.0, 2.0, -1.5), world, 1).astype(np.float32)

    small = turned_affine((0.0, 0.0, 0.0), (1.0, 1.0, 2.0), (-4.0, -4.0, -6.0))
    large = turned_affine((7.0, -9.0, 20.0), (0.9, 1.1, 1.7), (-14.0, -14.0, -16.0))
    first = make_nifti("a_0000.nii.gz", sampled((6, 8, 9), small), small)
    second = make_nifti("a_0001.nii.gz", sampled((24, 30, 34), large), large)
    loaded = load_case(CaseFiles("a", (first, second)), labels=None)
    assert loaded.case.image.shape == (2, 6, 8, 9)
    assert np.allclose(loaded.case.image[0], loaded.case.image[1], atol=0.05)
    assert len(loaded.notes) == 1
    assert loaded.notes[0].startswith("a_0001.nii.gz: resampled from 34×30×24 voxels")
    far = make_nifti("a_0001.nii.gz", IMAGE, AFFINE + np.pad([[500.0]], ((0, 3), (3, 0))))
    assert _code(CaseFiles("a", (first, far)), None) == "E_CHANNEL"


def test_stacked_channels(make_nifti: MakeNifti) -> None:
    path = make_nifti("a.nii.gz", np.stack([IMAGE, IMAGE + 1]), AFFINE)
    loaded = load_case(CaseFiles("a", (path,), stacked_channels=2), labels=None)
    assert np.array_equal(loaded.case.image, np.stack([IMAGE, IMAGE + 1]))
    assert _code(CaseFiles("a", (path,), stacked_channels=3), None) == "E_CHANNEL"


def test_the_choice_of_geometry_reaches_image_and_labels(make_nifti: MakeNifti) -> None:
    fields = {"qform_code": 0, "pixdim": [1, 1.5, 1.5, 10, 0, 0, 0, 0]}
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    files = CaseFiles("a", (make_nifti("a.nii", IMAGE, affine, **fields),), make_nifti("l.nii", LABELS, affine, **fields))
    assert _code(files) == "E_SPACING"
    loaded = load_case(files, labels=TABLE, geometry="pixdim")
    assert loaded.case.geometry.spacing_mm == (10, 1.5, 1.5)
    assert [note.split(":")[0] for note in loaded.notes] == ["a.nii", "l.nii"]


def test_a_sheared_scan_is_straightened_and_its_labels_go_back(make_nifti: MakeNifti, tmp_path: Path) -> None:
    affine = np.diag([0.9, 0.9, 2.5, 1.0])
    affine[1, 2] = 0.7
    z, y, x = np.indices((14, 40, 40))
    labels = (((z - 7) / 5) ** 2 + ((y - 20) / 14) ** 2 + ((x - 20) / 12) ** 2 < 1).astype(np.uint8)
    image = labels * 300.0 + RNG.normal(0, 5, labels.shape)
    pixdim = [1, *np.linalg.norm(affine[:3, :3], axis=0), 0, 0, 0, 0]
    fields = {"qform_code": 0, "pixdim": pixdim, **{f"srow_{axis}": affine[i] for i, axis in enumerate("xyz")}}
    right_angled = np.diag([0.9, 0.9, 2.5, 1.0])
    scan = make_nifti("a.nii.gz", image.astype(np.float32), right_angled, **fields)
    files = CaseFiles("a", (scan,), make_nifti("l.nii.gz", labels, right_angled, **fields))
    loaded = load_case(files, labels=TABLE)
    assert loaded.native.shape == (14, 40, 40)
    assert loaded.case.geometry.shape == loaded.case.image.shape[1:] == loaded.case.labels.shape  # type: ignore[union-attr]
    assert any("right-angled grid" in note for note in loaded.notes)
    assert loaded.case.image[0][loaded.case.labels == 1].mean() > 250
    found = loaded.to_native((loaded.case.image[0] > 150).astype(np.int16))
    assert 2 * (found & labels).sum() / (found.sum() + labels.sum()) > 0.95
    write_labels(tmp_path / "out.nii.gz", found, loaded.native)
    assert np.array_equal(nib.load(tmp_path / "out.nii.gz").header.get_sform(), nib.load(scan).header.get_sform())


def test_real_channels_of_unequal_grids(shared_data: Path) -> None:
    folder = shared_data / "Odd/labelled/ivadomed_spine3ch"
    images = tuple(folder / f"sub-unf01_{kind}.nii.gz" for kind in ("T1w", "T2w", "T2star"))
    table = label_table({"background": 0, "cord": 1})
    loaded = load_case(CaseFiles("spine", images, folder / "sub-unf01_T1w_seg-manual.nii.gz"), labels=table)
    assert loaded.case.image.shape == (3, 16, 141, 131)
    assert loaded.notes == ()
    assert _code(CaseFiles("spine", images, folder / "sub-unf01_T1w_lesion-manual.nii.gz"), table) == "E_ALIGN"
