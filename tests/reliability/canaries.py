"""Scans with a word of its own in every place where a scanner, an archive or a person leaves the name of a patient.

Labelled cases and scans to be predicted, in NIfTI, NRRD, MetaImage and DICOM. `where` finds the words again, in compressed
files and in what a page embeds too.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from faulty_scans import nifti

from autoseg3d.doctor.golden import ORIENTATIONS, golden_case
from autoseg3d.geometry import Geometry

FOLDER = "Doe^Jane-folder"
"""In the name of every folder above the scans."""

# Offset and length of the texts of a NIfTI-1 header.
_TEXTS = {"data_type": (4, 10), "db_name": (14, 18), "descrip": (148, 80), "aux_file": (228, 24), "intent_name": (328, 16)}
_ECODES = {"ignored": 0, "DICOM": 2, "AFNI": 4, "comment": 6, "XCEDE": 8, "MiND": 20, "Caret": 30, "Pypickle": 16, "unknown": 44}


def _word(place: str) -> str:
    """A word that nothing else holds; short, since some places are."""
    return f"Kx{zlib.crc32(place.encode()):08x}"


def _planted(places: list[str]) -> dict[str, bytes]:
    return {place: _word(place).encode() for place in places}


PLACES = _planted(
    [f"NIfTI {name}" for name in _TEXTS]
    + [f"NIfTI extension {name}" for name in _ECODES]
    + ["gzip name", "gzip comment", "gzip extra", "label descrip", "NRRD key", "NRRD value", "NRRD comment", "NRRD content"]
    + ["MetaImage comment", "MetaImage key", "MetaImage name"]
    + ["DICOM PatientName", "DICOM PatientID", "DICOM InstitutionName", "DICOM ReferringPhysicianName", "DICOM StudyDescription"]
    + ["DICOM SeriesDescription", "DICOM AccessionNumber", "DICOM PatientComments", "DICOM private", "DICOM StationName"]
) | {
    "DICOM PatientBirthDate": b"19230417",
    "DICOM SeriesInstanceUID": b"1.2.826.0.1.3680043.77.91827364",
    "DICOM StudyInstanceUID": b"1.2.826.0.1.3680043.77.55443322",
    "folder": FOLDER.encode(),
}
"""Every place, and the bytes planted there."""


def _extensions() -> bytes:
    """All kinds of NIfTI extensions, each a multiple of 16 bytes long."""
    made = b"\1\0\0\0"
    for name, ecode in _ECODES.items():
        content = PLACES[f"NIfTI extension {name}"]
        size = -(-(8 + len(content)) // 16) * 16
        made += struct.pack("<ii", size, ecode) + content.ljust(size - 8, b"\0")
    return made


def _with_texts(data: bytes, prefix: str = "NIfTI") -> bytes:
    """A NIfTI file of `faulty_scans.nifti` with words in its texts, extensions put before the voxels."""
    head, voxels, extensions = bytearray(data[:348]), data[352:], _extensions()
    for name, (at, size) in _TEXTS.items():
        word = PLACES["label descrip" if prefix == "label" and name == "descrip" else f"NIfTI {name}"]
        head[at : at + size] = word[:size].ljust(size, b"\0")
    struct.pack_into("<f", head, 108, 348 + len(extensions))
    return bytes(head) + extensions + voxels


def _packed(data: bytes) -> bytes:
    """A gzip file with a name, a comment and an extra field."""
    stream = zlib.compressobj(1, zlib.DEFLATED, -15)
    extra = PLACES["gzip extra"]
    head = b"\x1f\x8b\x08\x1c" + bytes(5) + b"\xff"
    head += struct.pack("<H", len(extra) + 4) + b"xx" + struct.pack("<H", len(extra)) + extra
    head += PLACES["gzip name"] + b"\0" + PLACES["gzip comment"] + b"\0"
    return head + stream.compress(data) + stream.flush() + struct.pack("<II", zlib.crc32(data), len(data))


def _patient(seed: int) -> tuple[np.ndarray, np.ndarray, Geometry]:
    image, truth, geometry = golden_case(ORIENTATIONS[seed % len(ORIENTATIONS)])
    noisy = image + np.random.default_rng(seed).normal(0, 1, image.shape)
    return np.round(noisy).astype(np.int16), truth, geometry


def write_labelled(folder: Path, cases: int) -> Path:
    """A dataset in nnU-Net's layout."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for i in range(cases):
        image, truth, geometry = _patient(i)
        (folder / "imagesTr" / f"c{i}_0000.nii.gz").write_bytes(_packed(_with_texts(nifti(image, geometry))))
        (folder / "labelsTr" / f"c{i}.nii.gz").write_bytes(_packed(_with_texts(nifti(truth.astype(np.uint8), geometry), "label")))
    labels = {"background": 0, "first": 1, "second": 2}
    document = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


def write_scans(folder: Path, *, dicom: bool) -> Path:
    """A scan in each format, and one that cannot be read, whose refusal is as silent about it."""
    folder.mkdir(parents=True)
    image, _, geometry = _patient(1)
    whole = _packed(_with_texts(nifti(image, geometry)))
    (folder / "nifti.nii.gz").write_bytes(whole)
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    size, voxels = " ".join(map(str, image.shape[::-1])), image.tobytes()
    head = (
        f"NRRD0005\n# {_word('NRRD comment')}\ncontent: {_word('NRRD content')}\ntype: short\ndimension: 3\nendian: little\nencoding: raw\n"
    )
    head += f"space: left-posterior-superior\nsizes: {size}\nspace directions: (1.5,0,0) (0,1.5,0) (0,0,2)\nspace origin: (0,0,0)\n"
    (folder / "nrrd.nrrd").write_bytes(f"{head}{_word('NRRD key')}:={_word('NRRD value')}\n\n".encode() + voxels)
    head = f"ObjectType = Image\nNDims = 3\nComment = {_word('MetaImage comment')}\n{_word('MetaImage key')} = {_word('MetaImage name')}\n"
    head += f"Name = {_word('MetaImage name')}\nBinaryData = True\nDimSize = {size}\nElementSpacing = 1.5 1.5 2\nOffset = 0 0 0\n"
    head += "TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (folder / "meta.mha").write_bytes(head.encode() + voxels)
    if dicom:
        _write_series(folder / "dicom", image, geometry)
        _write_series(folder / "gap", np.delete(image, 5, axis=0), geometry, gap=5)
    return folder


def _write_series(folder: Path, image: np.ndarray, geometry: Geometry, *, gap: int | None = None) -> None:
    """One file per slice; `gap` is the number of a slice that is missing."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir()
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.matrix
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    names = ("PatientName", "PatientID", "InstitutionName", "ReferringPhysicianName", "StudyDescription", "SeriesDescription")
    texts: dict[str, Any] = {name: _word(f"DICOM {name}") for name in (*names, "AccessionNumber", "PatientComments", "StationName")}
    texts |= {name: PLACES[f"DICOM {name}"].decode() for name in ("PatientBirthDate", "SeriesInstanceUID", "StudyInstanceUID")}
    for number, pixels in enumerate(image):
        place = number if gap is None or number < gap else number + 1
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.2"
        meta.MediaStorageSOPInstanceUID = f"{texts['SeriesInstanceUID']}.{number}"
        header = FileDataset("", {}, file_meta=meta, preamble=PLACES["DICOM PatientName"].ljust(128, b"\0"))
        header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        for name, value in texts.items():
            setattr(header, name, value)
        header.private_block(0x0029, "MAKER", create=True).add_new(0x10, "LO", _word("DICOM private"))
        header.Rows, header.Columns = pixels.shape
        header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelRepresentation = 1, "MONOCHROME2", 1
        header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
        header.ImagePositionPatient = [f"{v:.8g}" for v in (matrix @ (0, 0, place, 1))[:3]]
        header.ImageOrientationPatient = [f"{v:.10g}" for v in (matrix[:3, :2] / lengths[:2]).T.ravel()]
        header.PixelSpacing, header.RescaleSlope, header.RescaleIntercept = [lengths[1], lengths[0]], 1, 0
        header.PixelData = pixels.astype("<i2").tobytes()
        header.save_as(folder / f"{number}.dcm", enforce_file_format=True)


def where(folder: Path, words: dict[str, bytes] = PLACES) -> list[str]:
    """Every file below a folder that holds a planted word, in its name or its content, and the place the word is from."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        contents = [str(path.relative_to(folder)).encode(), *_layers(path.read_bytes())]
        found += [f"{path.relative_to(folder)}: {place}" for place, word in words.items() if any(word in content for content in contents)]
    return found


def _layers(data: bytes, depth: int = 3) -> Iterator[bytes]:
    """The bytes, and what is packed in them: gzip, zip, and base64 as web pages embed it."""
    yield data
    if depth == 0:
        return
    inner: list[bytes] = []
    with contextlib.suppress(OSError, EOFError, zlib.error):
        inner += [gzip.decompress(data)] if data[:2] == b"\x1f\x8b" else []
    with contextlib.suppress(zipfile.BadZipFile):
        if data[:2] == b"PK":
            archive = zipfile.ZipFile(io.BytesIO(data))
            inner += [archive.read(name) for name in archive.namelist()]
    for match in re.finditer(rb"[A-Za-z0-9+/]{200,}={0,2}", data):
        with contextlib.suppress(binascii.Error):
            inner.append(base64.b64decode(match[0] + b"=" * (-len(match[0]) % 4)))
    for part in inner:
        yield from _layers(part, depth - 1)
