"""Seeded damage to files: truncations, flipped bits, altered headers. Either the right voxels in the right place, or a refusal.

The oracle parses headers with nibabel and applies the documented rules in a few lines of its own.
"""

import gzip
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nifti_making import nifti_bytes, turned_affine
from text_headers import itk_image

from autoseg3d.errors import DataError
from autoseg3d.io import Volume, read_geometry, read_volume

ARRAY = np.random.default_rng(5).integers(-500, 1500, (16, 12, 10)).astype(np.int16)
AFFINE = turned_affine((4.0, -8.0, 15.0), (0.9, 0.8, 2.0), (-60.0, 30.0, 80.0))
PLAIN = nifti_bytes(ARRAY, AFFINE)
FIELDS = [
    name for name in nib.Nifti1Header.template_dtype.names if name not in ("data_type", "db_name", "descrip", "aux_file", "intent_name")
]


def _try(path: Path) -> Volume | None:
    """The volume, or None where it was refused; a refusal names the file and has a code."""
    started = time.monotonic()
    try:
        read_geometry(path)
        return read_volume(path)
    except DataError as error:
        refusal = error
    finally:
        assert time.monotonic() - started < 5
    assert refusal.code.startswith("E_")
    assert path.name in str(refusal)
    return None


def _is_original(volume: Volume) -> bool:
    return np.array_equal(volume.array, ARRAY) and np.allclose(volume.geometry.matrix, AFFINE, atol=1e-4)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_truncation_at_random_lengths(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    data = gzip.compress(PLAIN) if name.endswith("gz") else PLAIN
    for length in [*rng.integers(0, len(data), 150), *range(len(data) - 12, len(data))]:
        (tmp_path / name).write_bytes(data[:length])
        with pytest.raises(DataError) as caught:
            read_volume(tmp_path / name)
        assert caught.value.code in ("E_TRUNCATED", "E_NOT_NIFTI")
        assert caught.value.code == "E_TRUNCATED" or length < 540


@pytest.mark.parametrize("level", [0, 6])
def test_flipped_bits_in_compressed_files(tmp_path: Path, level: int) -> None:
    rng = np.random.default_rng(level)
    data = gzip.compress(PLAIN, level, mtime=0)
    accepted = 0
    for _ in range(250):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (tmp_path / "a.nii.gz").write_bytes(damaged)
        volume = _try(tmp_path / "a.nii.gz")
        if volume is not None:  # only gzip's own time stamp and flags of no consequence
            accepted += 1
            assert _is_original(volume)
    assert accepted < 10


def _mutated(rng: np.random.Generator) -> bytes:
    header = nib.Nifti1Header(PLAIN[:348], check=False)
    for _ in range(rng.integers(1, 4)):
        name = str(rng.choice(FIELDS))
        values = np.atleast_1d(header[name].copy())
        if values.dtype.kind == "S":
            raw = bytearray(values[0].ljust(values.dtype.itemsize, b"\0"))
            raw[rng.integers(len(raw))] = rng.integers(256)
            header[name] = bytes(raw)
            continue
        place = rng.integers(values.size)
        if values.dtype.kind == "f":
            values[place] = rng.choice(
                [np.nan, np.inf, -np.inf, 0, 1e-30, 1e30, -values[place], values[place] * 1.2, values[place] + 5, 1000]
            )
        else:
            limits = np.iinfo(values.dtype)
            values[place] = rng.choice([limits.min, limits.max, 0, 1, 2, 3, 4, 8, 16, 64, 512, min(limits.max, int(values[place]) + 1)])
        header[name] = values if header[name].ndim else values[0]
    return header.binaryblock


def _oracle(block: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """(voxels, affine) by the rules in the documentation; None where nibabel cannot make sense of the header at all."""
    header = nib.Nifti1Header(block, check=False)
    shape = [int(n) for n in header["dim"][1 : header["dim"][0] + 1]]
    dtype = header.get_data_dtype()
    offset = int(header["vox_offset"]) or 352
    numbers = np.frombuffer((block + PLAIN[348:])[offset:], dtype, count=int(np.prod(shape))).astype(np.float64)
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope != 0:
        numbers = numbers * slope + intercept
    with np.errstate(all="ignore"):
        sform = header.get_sform()
    if header["sform_code"] > 0 and np.isfinite(sform).all() and abs(np.linalg.det(sform[:3, :3])) > 0:
        affine = sform
    else:
        header["pixdim"][0] = header["pixdim"][0] or 1
        affine = header.get_qform()
    affine = np.diag([*[{1: 1000.0, 3: 0.001}.get(int(header["xyzt_units"]) & 7, 1.0)] * 3, 1.0]) @ affine
    x, y, z = [*shape, 1][:3]
    return numbers.astype(np.float32).reshape(z, y, x), affine


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_altered_headers(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(11)
    accepted = 0
    for _ in range(400):
        block = _mutated(rng)
        data = block + PLAIN[348:]
        (tmp_path / name).write_bytes(gzip.compress(data, 1) if name.endswith("gz") else data)
        volume = _try(tmp_path / name)
        if volume is None:
            continue
        accepted += 1
        voxels, affine = _oracle(block)
        assert np.array_equal(volume.array, voxels)
        assert np.allclose(volume.geometry.matrix, affine, atol=2e-3 * max(1, np.abs(affine).max() * 1e-3))
        _assert_consistent(block, volume)
    assert accepted > 50


def _assert_consistent(block: bytes, volume: Volume) -> None:
    """No accepted file may leave left and right, or the spacing, open to the choice of reader."""
    header = nib.Nifti1Header(block, check=False)
    spacing = np.array(volume.geometry.spacing_mm)
    assert (spacing >= 0.01).all()
    assert (spacing <= 100).all()
    header["pixdim"][0] = header["pixdim"][0] or 1
    if header["sform_code"] > 0 and header["qform_code"] > 0 and not volume.notes:
        gap = np.abs(header.get_sform() - header.get_qform()) @ np.array([9, 11, 15, 1.0])
        assert gap.max() < 0.3 * spacing.min()
    scale = {1: 1000.0, 3: 0.001}.get(int(header["xyzt_units"]) & 7, 1.0)
    assert np.allclose(np.abs(header["pixdim"][3:0:-1]) * scale, spacing, rtol=0.011)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ending", ["nrrd", "mha", "mgz"])
def test_altered_headers_of_other_formats(tmp_path: Path, ending: str) -> None:
    """Compressed voxels are right or refused; nothing but a DataError ever comes out."""
    whole = tmp_path / f"whole.{ending}"
    if ending == "mgz":
        nib.save(nib.MGHImage(ARRAY.T, AFFINE), whole)
    else:
        sitk.WriteImage(itk_image(ARRAY, AFFINE), str(whole), useCompression=True)
    data = gzip.decompress(whole.read_bytes()) if ending == "mgz" else whole.read_bytes()
    rng = np.random.default_rng(1)
    accepted = 0
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(284 if ending == "mgz" else 400))
            kind = rng.integers(2 if ending == "mgz" else 3)
            if kind < 2:
                damaged[place] = rng.integers(256) if kind else rng.choice(list(b"0123456789-. "))
            else:
                damaged[place : place + rng.integers(3)] = bytes(rng.choice(list(b"0123456789-.() nae=:"), 2).tolist())
        path = tmp_path / f"a.{ending}"
        path.write_bytes(gzip.compress(damaged, 1) if ending == "mgz" else damaged)
        volume = _try(path)
        if volume is not None:
            accepted += 1
            assert volume.array.shape == volume.geometry.shape
            assert ending == "mgz" or np.array_equal(volume.array.ravel(), ARRAY.ravel())
    assert accepted > 10


def test_undamaged_files_are_never_refused(tmp_path: Path) -> None:
    """Grids and types of all kinds, written by nibabel in its usual ways."""
    rng = np.random.default_rng(3)
    for number in range(150):
        shape = tuple(int(n) for n in rng.integers(1, 12, 3))
        array = rng.normal(0, 300, shape).astype(rng.choice(["u1", "i2", "u2", "i4", "f4", "f8"]))
        affine = turned_affine(tuple(rng.uniform(-180, 180, 3)), tuple(rng.uniform(0.05, 10, 3)), tuple(rng.uniform(-500, 500, 3)))
        affine[:3, :3] *= rng.choice([-1, 1], 3)
        image = (nib.Nifti1Image, nib.Nifti2Image)[number % 2](array.T, affine)
        if number % 3 == 1:
            image.set_qform(affine, 1)
        if number % 3 == 2:
            image.set_qform(affine, 1)
            image.set_sform(None, 0)
        nib.save(image, tmp_path / "a.nii.gz")
        volume = read_volume(tmp_path / "a.nii.gz")
        assert np.array_equal(volume.array, array.astype(np.float32))
        assert np.allclose(volume.geometry.matrix, affine, atol=5e-3)
        assert volume.notes == ()
