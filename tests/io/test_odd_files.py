"""Every file of the collection of odd scans: read, or refused with the right reason. Independent readers are the oracle."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from autoseg3d.errors import Autoseg3dError
from autoseg3d.geometry import Geometry
from autoseg3d.io import GeometryChoice, read_volume

# What is refused, and why. Everything else in the collection must be read.
REFUSED = {
    "nifti/complex.nii.gz": "E_DIM",
    "nifti/ct_perfusion.nii.gz": "E_DIM",  # RGB
    "nifti/rgb_dtype.nii.gz": "E_DIM",
    "nifti/example4d.nii.gz": "E_DIM",
    "nifti/example_nifti2.nii.gz": "E_DIM",
    "nifti/functional.nii": "E_DIM",
    "nifti/mpld_asl.nii.gz": "E_DIM",
    "nifti/pcasl.nii.gz": "E_DIM",
    "nifti/sct_dmri_4d.nii.gz": "E_DIM",
    "nifti/sct_fmri_4d.nii.gz": "E_DIM",
    "nifti/sct_warp_5d_vector.nii.gz": "E_DIM",
    "nifti/minimal.nii.gz": "E_NO_ORIENT",  # both form codes 0
    "nifti/resampled_anat_moved.nii": "E_NONFINITE",  # 153 of 1071 voxels
    "nifti/sct_fmri_tsnr_has_nan.nii.gz": "E_NONFINITE",
    "labelled/sct_mt/mtr.nii.gz": "E_NONFINITE",
    **{f"labelled/acdc_original_headers/patient{n}_frame01{gt}.nii.gz": "E_SPACING" for n in ("001", "050", "100") for gt in ("", "_gt")},
    "nrrd_mha/minc1_1_scale.mnc": "E_FORMAT",
    "nrrd_mha/minc2_1_scale.mnc": "E_FORMAT",
    "nrrd_mha/test.mgz": "E_SHEAR",  # axes 38 degrees from square
    "dicom/single/MR2_UNCI.dcm": "E_SLICES",  # one slice
    "dicom/single/MR2_UNCR.dcm": "E_SLICES",
    "dicom/single/liver.dcm": "E_DICOM",  # a segmentation
    # multi-frame files whose frames say nowhere where they lie; other readers invent a spacing of 1 mm
    **{
        f"dicom/single/emri_small{kind}.dcm": "E_NO_ORIENT"
        for kind in ("", "_RLE", "_big_endian", "_jpeg_2k_lossless", "_jpeg_ls_lossless")
    },
    "dicom/single/emri_small_jpeg_2k_lossless_too_short.dcm": "E_TRUNCATED",
}
# What is read only after a person has decided.
DECIDED: dict[str, GeometryChoice] = {
    "nifti/minimal.nii.gz": "pixdim",
    **{name: "pixdim" for name, code in REFUSED.items() if code == "E_SPACING"},
}
# Read with a note.
NOTED = {
    "nifti/shear.nii.gz": (
        "the qform cannot state the shear of the sform; the sform was taken",
        "sheared voxel grid (cosine between axes 0.317)",
    )
}
DICOM_FOLDERS = ("dicom/totalseg_ct_series", "dicom/udacity_FLAIRreg", "dicom/udacity_HCropVolume", "dicom/udacity_T1post")


def _names(folder: Path) -> list[str]:
    files = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    slices = tuple(f"{folder}/" for folder in DICOM_FOLDERS)
    return [name for name in files if not name.endswith((".md", ".tsv")) and not name.startswith(slices)]


@pytest.fixture(scope="module")
def odd(shared_data: Path) -> Path:
    return shared_data / "Odd"


def _nibabel(path: Path) -> tuple[np.ndarray, Geometry]:
    image = nib.load(path)
    # Asked for float32, nibabel scales in float32 under numpy 1; asked for float64, with any numpy as we do.
    return image.get_fdata(dtype=np.float64).astype(np.float32).squeeze().T, Geometry.from_affine(image.shape[2::-1], image.affine)


def _simpleitk(path: Path) -> tuple[np.ndarray, Geometry]:
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)) if path.is_dir() else str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    array = sitk.GetArrayFromImage(image)
    return array.astype(np.float32), Geometry.from_affine(array.shape, np.diag([-1.0, -1, 1, 1]) @ matrix)


def _same(path: Path, *, geometry: bool = True) -> None:
    read = read_volume(path)
    array, grid = (_nibabel if path.name.endswith((".nii", ".nii.gz", ".img", ".hdr", ".mgz")) else _simpleitk)(path)
    assert read.array.shape == read.geometry.shape
    assert np.array_equal(read.array, array), path
    if geometry:
        assert read.geometry.corner_distance_voxels(grid) < 1e-3, path


def test_every_single_file_is_read_or_refused_with_its_reason(odd: Path) -> None:
    names = _names(odd)
    assert set(REFUSED) <= set(names)
    assert len(names) > 90
    for name in names:
        if name in REFUSED:
            with pytest.raises(Autoseg3dError) as caught:
                read_volume(odd / name)
            assert (name, caught.value.code) == (name, REFUSED[name])
            assert Path(name).name in str(caught.value)
        elif name.endswith(".dcm"):
            assert name == "dicom/single/eCT_Supplemental.dcm"
        else:
            _same(odd / name)
            assert read_volume(odd / name).notes == NOTED.get(name, ())


@pytest.mark.parametrize("name", DICOM_FOLDERS)
def test_series_of_slices(odd: Path, name: str) -> None:
    if not (odd / name).is_dir():
        pytest.skip("not in this copy of the collection")
    _same(odd / name)


def test_multi_frame_ct_is_placed_by_its_frames(odd: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    path = odd / "dicom/single/eCT_Supplemental.dcm"
    read = read_volume(path)
    header = pydicom.dcmread(path)
    scale = header.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0]
    frames = header.pixel_array * float(scale.RescaleSlope) + float(scale.RescaleIntercept)
    positions = [np.array(f.PlanePositionSequence[0].ImagePositionPatient, dtype=float) for f in header.PerFrameFunctionalGroupsSequence]
    for frame, position in zip(frames, positions, strict=True):
        ras = np.diag([-1, -1, 1]) @ position
        x, y, z = np.rint(np.linalg.solve(read.geometry.matrix[:3, :3], ras - read.geometry.matrix[:3, 3])).astype(int)
        assert (x, y) == (0, 0)
        assert np.array_equal(read.array[z], frame.astype(np.float32))


def test_decided_by_a_person(odd: Path) -> None:
    for name, choice in DECIDED.items():
        read = read_volume(odd / name, geometry=choice)
        header = nib.load(odd / name).header
        assert np.allclose(read.geometry.spacing_mm[::-1], header["pixdim"][1:4])
        assert read.notes


def test_labels_stay_labels(odd: Path) -> None:
    for name in _names(odd):
        if ("_seg" in name or "label" in Path(name).name or "lesion" in Path(name).name) and name not in REFUSED:
            labels = read_volume(odd / name, labels=True)
            assert labels.array.dtype in (np.int16, np.int32)
            assert np.array_equal(labels.array, read_volume(odd / name).array), name
