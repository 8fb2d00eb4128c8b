"""Scans that must not be segmented, one fault each, and scans that must: both made from the doctor's golden scan.

The bytes of the NIfTI files are laid by nibabel's header type, so that the faults do not come from the code under test.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from autoseg3d.doctor.golden import ORIENTATIONS, golden_case
from autoseg3d.geometry import Geometry

Write = Callable[[Path], None]
"""Writes the scan `path` (a name without ending) and whatever goes with it."""


@dataclass(frozen=True)
class Fault:
    """A way in which a scan is broken, and the codes by which that may be told."""

    name: str
    write: Write
    codes: frozenset[str]


def nifti(image: np.ndarray, geometry: Geometry, **fields: Any) -> bytes:
    """A NIfTI-1 file of a (…, Z, Y, X) array; `fields` overwrite header entries as they are."""
    made = nib.Nifti1Image(np.zeros(image.shape[::-1], image.dtype), geometry.matrix, dtype=image.dtype)
    header = made.header
    header.set_qform(geometry.matrix, 1)
    header.set_sform(geometry.matrix, 1)
    header.set_xyzt_units("mm")
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, 1, 0
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + bytes(4) + image.tobytes()


def sound(seed: int) -> Write:
    """A fine scan: other noise, orientation, number type and packing by `seed`."""
    rng = np.random.default_rng(seed)
    image, _, geometry = golden_case(ORIENTATIONS[seed % len(ORIENTATIONS)])
    noisy = image + rng.normal(0, 1, image.shape)
    kind = (np.int16, np.float32, np.uint16, np.float64)[seed // 3 % 4]
    data = nifti(np.clip(np.round(noisy), 0, None).astype(kind), geometry)

    def write(path: Path) -> None:
        packed = seed // 12 % 2 == 0
        path.with_name(path.name + (".nii.gz" if packed else ".nii")).write_bytes(gzip.compress(data, 1) if packed else data)

    return write


def _image() -> tuple[np.ndarray, Geometry]:
    image, _, geometry = golden_case(ORIENTATIONS[0])
    return np.round(image).astype(np.int16), geometry


def _file(data: Callable[[], bytes], ending: str = ".nii", pack: bool = False) -> Write:
    def write(path: Path) -> None:
        path.with_name(path.name + ending).write_bytes(gzip.compress(data(), 1) if pack else data())

    return write


def _header(**fields: Any) -> Write:
    return _file(lambda: nifti(*_image(), **fields))


def _voxels(change: Callable[[np.ndarray], np.ndarray]) -> Write:
    def data() -> bytes:
        image, geometry = _image()
        return nifti(change(image), geometry)

    return _file(data)


def _cut(data: Callable[[], bytes]) -> Callable[[], bytes]:
    return lambda: data()[: len(data()) // 2]


def _plain() -> bytes:
    return nifti(*_image())


def _packed() -> bytes:
    return gzip.compress(_plain(), 1)


def _flipped() -> bytes:
    """One bit of a voxel changed after its checksum was taken."""
    data = bytearray(gzip.compress(_plain(), 0))
    data[len(data) // 2] ^= 4
    return bytes(data)


def _sform(change: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    matrix = change(_image()[1].matrix.copy())
    return {"srow_x": matrix[0], "srow_y": matrix[1], "srow_z": matrix[2]}


def _moved(matrix: np.ndarray) -> np.ndarray:
    matrix[0, 3] += 5
    return matrix


def _sheared(matrix: np.ndarray) -> np.ndarray:
    """The second axis leans towards the first, its length as it was."""
    leaning = 2 * matrix[:3, 0] + matrix[:3, 1]
    matrix[:3, 1] = leaning * np.linalg.norm(matrix[:3, 1]) / np.linalg.norm(leaning)
    return matrix


def _rgb() -> bytes:
    image, geometry = _image()
    data = nifti(image.astype(np.uint8), geometry, datatype=128, bitpix=24)
    return data + bytes(2 * image.size)


def _nrrd(*, sizes: str = "48 40 24", directions: str = "(1.5,0,0) (0,1.5,0) (0,0,2)", cut: int = 0) -> Write:
    image = _image()[0]
    head = f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
    head += f"space directions: {directions}\nkinds: domain domain domain\nendian: little\nencoding: raw\nspace origin: (0,0,0)\n\n"
    return _file(lambda: head.encode() + image.tobytes()[: image.nbytes - cut], ".nrrd")


def _detached(path: Path) -> None:
    head = "ObjectType = Image\nNDims = 3\nDimSize = 48 40 24\nElementSpacing = 1.5 1.5 2\nElementType = MET_SHORT\n"
    head += "Offset = 0 0 0\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nElementDataFile = gone.raw\n"
    path.with_name(path.name + ".mhd").write_text(head)


def _link(target: str) -> Write:
    def write(path: Path) -> None:
        link = path.with_name(path.name + ".nii.gz")
        os.symlink(link.name if target == "itself" else target, link)

    return write


def _filled(value: float, share: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(image: np.ndarray) -> np.ndarray:
        filled = image.astype(np.float32)
        filled.reshape(-1)[: int(share * image.size)] = value
        return filled

    return change


_NAN_ROW = np.array([np.nan, 0, 0, 0])
_INF_ROW = np.array([0.1, np.inf, 0, 0])
_LIAR = np.array([3, 32767, 32767, 32767, 1, 1, 1, 1])


def _fault(name: str, write: Write, *codes: str) -> Fault:
    return Fault(name, write, frozenset(codes))


FAULTS = (
    _fault("packed file cut in half", _file(_cut(_packed), ".nii.gz"), "E_TRUNCATED"),
    _fault("file cut in half", _file(_cut(_plain)), "E_TRUNCATED"),
    _fault("checksum cut off", _file(lambda: _packed()[:-8], ".nii.gz"), "E_TRUNCATED"),
    _fault("bit flipped", _file(_flipped, ".nii.gz"), "E_CORRUPT"),
    _fault("empty file", _file(bytes, ".nii.gz"), "E_NOT_NIFTI", "E_TRUNCATED"),
    _fault("text", _file(lambda: b"<html>not a scan</html>" * 40), "E_NOT_NIFTI"),
    _fault("packed rubbish", _file(lambda: b"rubbish" * 400, ".nii.gz", pack=True), "E_NOT_NIFTI"),
    _fault("infinite affine", _header(srow_y=_INF_ROW, qform_code=0), "E_GEOMETRY"),
    _fault("affine that is no number", _header(srow_x=_NAN_ROW, qform_code=0), "E_GEOMETRY"),
    _fault("affine of zeros", _header(**_sform(lambda m: m * 0), qform_code=0), "E_GEOMETRY"),
    _fault("sheared beyond repair", _header(**_sform(_sheared), qform_code=0), "E_SHEAR"),
    _fault("forms five millimetres apart", _header(**_sform(_moved)), "E_QS_MISMATCH"),
    _fault("forms mirrored", _header(**_sform(lambda m: np.diag([-1.0, 1, 1, 1]) @ m)), "E_QS_MIRROR", "E_QS_MISMATCH"),
    _fault("no orientation", _header(qform_code=0, sform_code=0), "E_NO_ORIENT"),
    _fault("pixdim against affine", _header(qform_code=0, pixdim=np.array([1, 8.0, 1.5, 2, 0, 0, 0, 0])), "E_SPACING"),
    _fault("metres", _header(xyzt_units=1), "E_UNIT"),
    _fault("microscopic voxels", _header(**_sform(lambda m: m * 1e-4), qform_code=0), "E_SPACING"),
    _fault("giant voxels", _header(**_sform(lambda m: m * 1e4), qform_code=0), "E_SPACING"),
    _fault("size that lies", _header(dim=_LIAR), "E_TRUNCATED"),
    _fault("negative size", _header(dim=np.array([3, -1, 40, 24, 1, 1, 1, 1])), "E_DIM"),
    _fault("size of nothing", _header(dim=np.array([3, 48, 0, 24, 1, 1, 1, 1])), "E_DIM"),
    _fault("scaling that is no number", _header(scl_slope=np.nan), "E_SCALE"),
    _fault("voxels that are no numbers", _voxels(_filled(np.nan, 1.0)), "E_NONFINITE"),
    _fault("infinite voxels", _voxels(_filled(np.inf, 0.05)), "E_NONFINITE"),
    _fault("several volumes", _voxels(lambda image: np.stack([image] * 3)), "E_DIM", "E_CHANNEL"),
    _fault("colours", _file(_rgb), "E_DIM"),
    _fault("complex numbers", _voxels(lambda image: image.astype(np.complex64)), "E_DIM"),
    _fault("constant", _voxels(lambda image: image * 0 + 5), "E_CONSTANT"),
    _fault("link to nothing", _link("nothing.nii.gz"), "E_MISSING", "E_PATH"),
    _fault("link to itself", _link("itself"), "E_MISSING", "E_PATH"),
    _fault("NRRD cut short", _nrrd(cut=1000), "E_TRUNCATED"),
    _fault("NRRD with flat axes", _nrrd(directions="(1.5,0,0) (1.5,0,0) (0,0,2)"), "E_GEOMETRY"),
    _fault("MetaImage without its voxels", _detached, "E_MISSING"),
)
