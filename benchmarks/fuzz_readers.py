"""Damaged scans of every format: what our readers do with them, held against nibabel, SimpleITK and pydicom.

Usage: python benchmarks/fuzz_readers.py [--count 5000] [--seed 0] [--formats nii,nrrd,...] [--damage fields,cut,...] [--keep FOLDER]

Small volumes on oblique grids are written by nibabel, SimpleITK and pydicom, then damaged: fields of the header changed, bytes
of it overwritten, the file cut short, single bits flipped anywhere. Each is read twice, in two supervised processes that are
killed after ten seconds: by autoseg3d, and by an independent reader. Where ours accepts a file, voxels and geometry must be
those of the independent reader, or those of the undamaged volume; a note on what was repaired also counts as told.

"wrong" is what must not happen: accepted without a word, and equal to neither. "unjudged": accepted, different from the
original, and the independent reader has no answer; these are listed.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import bz2
import collections
import gzip
import logging
import multiprocessing as mp
import os
import re
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

LIMIT_SECONDS = 10.0
MEMORY_LIMIT = 6 * 2**30
ENDINGS = {"nii": ".nii", "nii.gz": ".nii.gz", "nii2": ".nii", "pair": ".hdr", "nrrd": ".nrrd", "nrrd.gz": ".nrrd", "nhdr": ".nhdr",
           "mha": ".mha", "mha.z": ".mha", "mhd": ".mhd", "mgz": ".mgz", "dicom": "",
           "nrrd.bz2": ".nrrd", "nrrd.txt": ".nrrd", "nrrd.hex": ".nrrd", "mha.txt": ".mha"}  # fmt: skip
DAMAGE = {"fields": 0.45, "bytes": 0.25, "cut": 0.15, "bit": 0.15}
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# float32 affines and decimal strings of 16 characters
GEOMETRY_TOLERANCE_MM = 5e-3


@dataclass(frozen=True)
class Reading:
    """What a reader said: a volume with its notes, or a refusal (`code`, `text`)."""

    array: np.ndarray | None = None
    matrix: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    code: str = ""
    text: str = ""


# --- the two readers, each in a process of its own ---------------------------------------------------------------------------


def ours(path: str) -> Reading:
    """autoseg3d. Anything but its own errors is a crash and is not caught here."""
    from autoseg3d.errors import DataError
    from autoseg3d.io import read_geometry, read_volume

    try:
        grid = read_geometry(path)
        volume = read_volume(path)
    except DataError as error:
        return Reading(code=error.code, text=str(error))
    assert grid.matrix.tolist() == volume.geometry.matrix.tolist(), "geometry alone differs from geometry with voxels"
    return Reading(volume.array, volume.geometry.matrix, volume.notes)


def theirs(path: str) -> Reading:
    """nibabel for NIfTI and MGH, pydicom for DICOM, SimpleITK for the others."""
    place = Path(path)
    try:
        if place.is_dir():
            return _pydicom(place)
        return _nibabel(place) if place.name.endswith((".nii", ".nii.gz", ".hdr", ".mgz")) else _simpleitk(place)
    except Exception as error:
        return Reading(code=type(error).__name__, text=str(error)[:200])


def _nibabel(path: Path) -> Reading:
    import nibabel

    image: Any = nibabel.load(path)
    array = np.asarray(image.dataobj)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    array = array.reshape(*array.shape, *[1] * (3 - array.ndim))
    affine = image.affine
    if path.name.endswith((".nii", ".nii.gz", ".hdr")):  # nibabel passes over the unit of length
        affine = np.diag([*[{1: 1e3, 3: 1e-3}.get(int(image.header["xyzt_units"]) & 7, 1.0)] * 3, 1.0]) @ affine
    return Reading(array.T.astype(np.float32), affine)


def _simpleitk(path: Path) -> Reading:
    import SimpleITK as sitk  # noqa: N813

    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return Reading(sitk.GetArrayFromImage(image).astype(np.float32), TO_LPS @ matrix)


def _pydicom(folder: Path) -> Reading:
    import pydicom

    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    x, y = (np.array(slices[0].ImageOrientationPatient[i : i + 3], dtype=float) for i in (0, 3))
    normal = np.cross(x, y)
    slices.sort(key=lambda s: float(normal @ np.array(s.ImagePositionPatient, dtype=float)))
    first, last = (np.array(slices[i].ImagePositionPatient, dtype=float) for i in (0, -1))
    matrix = np.eye(4)
    matrix[:3, 0] = x / np.linalg.norm(x) * float(slices[0].PixelSpacing[1])
    matrix[:3, 1] = y / np.linalg.norm(y) * float(slices[0].PixelSpacing[0])
    matrix[:3, 2] = normal / np.linalg.norm(normal) * (normal @ (last - first)) / np.linalg.norm(normal) / (len(slices) - 1)
    matrix[:3, 3] = first
    planes = [s.pixel_array * float(s.get("RescaleSlope", 1)) + float(s.get("RescaleIntercept", 0)) for s in slices]
    return Reading(np.stack(planes).astype(np.float32), TO_LPS @ matrix)


def _serve(pipe: Connection, function: Callable[[str], Reading]) -> None:
    import warnings

    warnings.simplefilter("ignore")
    logging.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # ITK's remarks
    np.seterr(all="ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    while True:
        path = pipe.recv()
        try:
            pipe.send(function(path))
        except BaseException as error:
            pipe.send(f"{type(error).__name__}: {error}")


class Reader:
    """A supervised process; a new one after each death."""

    def __init__(self, function: Callable[[str], Reading]) -> None:
        self.function, self.process, self.slowest = function, None, 0.0
        self.pipe: Connection

    def ask(self, path: Path) -> Reading | str:
        """The reading, or in words how the process ended."""
        if self.process is None:
            context = mp.get_context("spawn")
            self.pipe, end = context.Pipe()
            self.process = context.Process(target=_serve, args=(end, self.function), daemon=True)
            self.process.start()
            end.close()
            self.ask_with(path, 120.0)  # the first question also waits for imports
        began = time.monotonic()
        answer = self.ask_with(path, LIMIT_SECONDS)
        self.slowest = max(self.slowest, time.monotonic() - began)
        return answer

    def ask_with(self, path: Path, limit: float) -> Reading | str:
        try:
            if self.process is None:
                return "hang"
            self.pipe.send(str(path))
            if self.pipe.poll(limit):
                return self.pipe.recv()
            cause = "hang"
        except (EOFError, OSError):
            cause = "died"
        self.process.kill()
        self.process.join()
        self.process = None
        return cause

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()


# --- whole volumes --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """An undamaged volume as bytes of its files, the one that is opened first; `header` is how many of its bytes are header."""

    files: dict[str, bytes]
    header: int
    array: np.ndarray
    matrix: np.ndarray


def volume(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A (Z, Y, X) int16 array and a RAS affine with an orientation of its own."""
    shape = tuple(int(n) for n in rng.integers(4, 12, 3))
    array = rng.integers(-1000, 1500, shape).astype(np.int16)
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1.0, 1.0], 3) if rng.random() < 0.5 else axes
    matrix = np.eye(4)
    matrix[:3, :3] = axes * rng.uniform(0.4, 4.0, 3)
    matrix[:3, 3] = rng.uniform(-200, 200, 3)
    return array, matrix


def write(kind: str, rng: np.random.Generator, folder: Path) -> Whole:
    """One whole volume of a format, from an independent writer, read back as the independent reader sees it."""
    folder.mkdir()
    array, matrix = volume(rng)
    path = folder / f"a{ENDINGS[kind]}"
    if kind in ("nii", "nii.gz", "nii2", "pair", "mgz"):
        _write_nibabel(kind, path, array, matrix, int(rng.integers(3)))
    elif kind == "dicom":
        if np.linalg.det(matrix[:3, :3]) > 0:  # slices are stacked along their normal
            matrix[:3, 2] *= -1
        _write_dicom(path, array, matrix)
    else:
        _write_simpleitk(path, array, matrix, compressed=kind.endswith((".gz", ".z")))
    order = sorted((folder if kind != "dicom" else path).iterdir(), key=lambda p: p.suffix not in (".hdr", ".nhdr", ".mhd"))
    files = {p.name: p.read_bytes() for p in order}
    seen = theirs(str(path))
    if kind.endswith((".bz2", ".txt", ".hex")):
        files = {path.name: _spelt(kind, files[path.name], array)}
    assert seen.array is not None, (kind, seen.text)
    assert seen.matrix is not None
    first = next(iter(files.values()))
    sizes = {"nii": 352, "nii.gz": 352, "nii2": 544, "pair": 348, "mgz": 284, "dicom": max(0, len(first) - array[0].nbytes)}
    end = first.find(b"\n\n") if b"NRRD" in first[:8] else first.find(b"LOCAL\n")
    return Whole(files, sizes.get(kind, end if end > 0 else len(first)), seen.array, seen.matrix)


def _spelt(kind: str, data: bytes, array: np.ndarray) -> bytes:
    """A raw NRRD or MetaImage file with its voxels in another encoding."""
    if kind == "mha.txt":
        head = data[: -array.nbytes].replace(b"BinaryData = True", b"BinaryData = False")
        return head + " ".join(map(str, array.ravel().tolist())).encode() + b"\n"
    word, voxels = {
        "nrrd.bz2": (b"bzip2", bz2.compress(array.tobytes())),
        "nrrd.txt": (b"ascii", " ".join(map(str, array.ravel().tolist())).encode() + b"\n"),
        "nrrd.hex": (b"hex", array.tobytes().hex("\n", 32).encode() + b"\n"),
    }[kind]
    return data[: -array.nbytes].replace(b"encoding: raw", b"encoding: " + word) + voxels


def _write_nibabel(kind: str, path: Path, array: np.ndarray, matrix: np.ndarray, forms: int) -> None:
    import nibabel

    if kind == "mgz":
        nibabel.save(nibabel.MGHImage(array.T, matrix), path)
        return
    image = {"nii2": nibabel.Nifti2Image, "pair": nibabel.Nifti1Pair}.get(kind, nibabel.Nifti1Image)(array.T, matrix)
    if forms != 0:
        image.set_qform(matrix, 1)
    if forms == 2:
        image.set_sform(matrix, 1)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _write_simpleitk(path: Path, array: np.ndarray, matrix: np.ndarray, *, compressed: bool) -> None:
    import SimpleITK as sitk  # noqa: N813

    image, lps = sitk.GetImageFromArray(array), TO_LPS @ matrix
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=compressed)


def _write_dicom(folder: Path, array: np.ndarray, matrix: np.ndarray) -> None:
    import pydicom

    folder.mkdir()
    lps = TO_LPS @ matrix
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    for z, plane in enumerate(array):
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = pydicom.uid.CTImageStorage, f"1.2.3.{z + 1}"
        one = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        one.SOPClassUID, one.SOPInstanceUID, one.SeriesInstanceUID = meta.MediaStorageSOPClassUID, f"1.2.3.{z + 1}", "1.2.4"
        one.Rows, one.Columns, one.SamplesPerPixel, one.PhotometricInterpretation = *plane.shape, 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.ImagePositionPatient = [f"{v:.9g}" for v in (lps @ (0, 0, z, 1))[:3]]
        one.ImageOrientationPatient = [f"{v:.10f}" for v in (lps[:3, :2] / lengths[:2]).T.ravel()]
        one.PixelSpacing = [f"{lengths[1]:.9g}", f"{lengths[0]:.9g}"]
        one.RescaleSlope, one.RescaleIntercept = 1, -10
        one.PixelData = plane.tobytes()
        one.save_as(folder / f"{z:02d}.dcm", enforce_file_format=True)


# --- damage ---------------------------------------------------------------------------------------------------------------------


def damage(kind: str, whole: Whole, rng: np.random.Generator, ways: dict[str, float]) -> dict[str, bytes]:
    """The files with one of them damaged, in one of the `ways`, which have weights."""
    files = dict(whole.files)
    names = list(files)
    name = names[0] if rng.random() < 0.8 else str(rng.choice(names))
    packed = kind in ("nii.gz", "mgz")
    how = str(rng.choice(list(ways), p=np.array(list(ways.values())) / sum(ways.values())))
    data = gzip.decompress(files[name]) if packed and how in ("fields", "bytes") else files[name]
    header = min(whole.header, len(data)) if name == names[0] else len(data)
    data = {"fields": _fields, "bytes": _bytes, "cut": _cut, "bit": _bit}[how](kind, bytearray(data), header, rng)
    files[name] = gzip.compress(data, 1) if packed and how in ("fields", "bytes") else bytes(data)
    return files


def _cut(kind: str, data: bytearray, header: int, rng: np.random.Generator) -> bytearray:
    return data[: rng.integers(len(data))]


def _bit(kind: str, data: bytearray, header: int, rng: np.random.Generator) -> bytearray:
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return data


def _bytes(kind: str, data: bytearray, header: int, rng: np.random.Generator) -> bytearray:
    for _ in range(rng.integers(1, 5)):
        if data:
            data[int(rng.integers(max(1, min(header, len(data)))))] = int(rng.integers(256))
    return data


def _fields(kind: str, data: bytearray, header: int, rng: np.random.Generator) -> bytearray:
    """One to four fields of the header given values that are odd for them."""
    for _ in range(rng.integers(1, 5)):
        if kind in ("nii", "nii.gz", "pair", "nii2"):
            _nifti_field(data, rng, version=2 if kind == "nii2" else 1)
        elif kind == "mgz":
            _odd_number(data, int(rng.choice([*range(0, 28, 4), *range(30, 90, 4)])), rng, ">", 4)
        else:
            data = _text_field(data, header, rng)
    return data


_NIFTI_FIELDS = {  # offset, count, kind in NIfTI-1 and -2
    "dim": ((40, 8, "i2"), (16, 8, "i8")), "datatype": ((70, 1, "i2"), (12, 1, "i2")), "bitpix": ((72, 1, "i2"), (14, 1, "i2")),
    "pixdim": ((76, 8, "f4"), (104, 8, "f8")), "vox_offset": ((108, 1, "f4"), (168, 1, "i8")), "scl": ((112, 2, "f4"), (176, 2, "f8")),
    "units": ((123, 1, "u1"), (500, 1, "i4")), "codes": ((252, 2, "i2"), (344, 2, "i4")), "quaternion": ((256, 6, "f4"), (352, 6, "f8")),
    "srow": ((280, 12, "f4"), (400, 12, "f8")), "magic": ((344, 4, "u1"), (4, 8, "u1")), "sizeof": ((0, 1, "i4"), (0, 1, "i4")),
}  # fmt: skip


def _nifti_field(data: bytearray, rng: np.random.Generator, *, version: int) -> None:
    weights = np.array([2, 1, 1, 3, 1, 2, 1, 2, 4, 4, 1, 0.3])
    offset, count, kind = _NIFTI_FIELDS[str(rng.choice(list(_NIFTI_FIELDS), p=weights / weights.sum()))][version - 1]
    size = int(kind[1])
    _odd_number(data, offset + size * int(rng.integers(count)), rng, "<", size, kind=kind)


def _odd_number(data: bytearray, place: int, rng: np.random.Generator, order: str, size: int, *, kind: str | None = None) -> None:
    kind = kind or str(rng.choice(["i4", "f4"]))
    dtype = np.dtype(order + kind)
    if place + size > len(data):  # the voxels of a pair
        return
    old = np.frombuffer(bytes(data[place : place + size]), dtype)[0]
    with np.errstate(all="ignore"):
        if dtype.kind == "f":
            odd = [np.nan, np.inf, -np.inf, 0, 1, -1, 1e-30, 1e30, -old, old * 1.005, old * 1.2, old * 2, old + 5, 1000, 1e-3]
        else:
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
            near = [min(high, int(old) + 1), max(low, int(old) - 1)]
            odd = [low, high, 0, 1, 2, 3, 4, 8, 16, 32, 64, *near, int(rng.integers(0, 128))]
        data[place : place + size] = np.array(odd[rng.integers(len(odd))]).astype(dtype).tobytes()


def _text_field(data: bytearray, header: int, rng: np.random.Generator) -> bytearray:
    """A number in the text of a header replaced, or two lines swapped, or a line dropped."""
    head, rest = bytes(data[:header]), bytes(data[header:])
    numbers = list(re.finditer(rb"-?\d+\.?\d*(e-?\d+)?", head))
    choice = rng.random()
    if choice < 0.75 and numbers:
        found = numbers[rng.integers(len(numbers))]
        value = found.group()
        odd = [b"0", b"-1", b"nan", b"inf", b"1e30", b"1e-30", b"x", b"", b"-" + value, value + b"0", value[::-1], b"1", b"2", b"999999"]
        new = odd[rng.integers(len(odd))]
        new = new[: len(value)].ljust(len(value)) if b"DICM" in head[:140] else new  # keeps DICOM's lengths right
        return bytearray(head[: found.start()] + new + head[found.end() :] + rest)
    lines = head.split(b"\n")
    if len(lines) > 3 and b"DICM" not in head[:140]:
        one, other = (int(i) for i in rng.integers(1, len(lines) - 1, 2))
        if choice < 0.9:
            lines[one], lines[other] = lines[other], lines[one]
        else:
            del lines[one]
        return bytearray(b"\n".join(lines) + rest)
    return _bytes("", data, header, rng)


# --- verdicts -------------------------------------------------------------------------------------------------------------------


def same(one: Reading, array: np.ndarray, matrix: np.ndarray) -> bool:
    """Whether a reading has these voxels in this place; a shear up to 1e-3 may have been taken out."""
    if one.array is None or one.matrix is None or one.array.shape != array.shape:
        return False
    corners = np.array([(x, y, z, 1) for z in (0, array.shape[0]) for y in (0, array.shape[1]) for x in (0, array.shape[2])], dtype=float)
    with np.errstate(all="ignore"):
        gap = np.linalg.norm(corners @ (one.matrix - matrix).T, axis=1).max()
        size = np.linalg.norm(matrix[:3, :3], axis=0) @ array.shape[::-1]
    tolerance = GEOMETRY_TOLERANCE_MM + 1e-6 * float(np.abs(matrix[:3, 3]).max()) + 2e-5 * float(size)
    rounding = 1e-6 * float(np.abs(array).max(initial=0))  # nibabel scales some types in float32
    return bool(np.allclose(one.array, array, rtol=0, atol=rounding, equal_nan=True) and gap <= tolerance)


def stated(path: Path) -> np.ndarray | None:
    """The matrix that the words of an NRRD or MetaImage header give, where no independent reader takes the file; else None."""
    words = path.read_bytes()[:4096].decode("latin-1")
    lines = dict(re.findall(r"^([A-Za-z ]+?)\s*[:=]\s*(.*)$", words, re.MULTILINE))
    nrrd, matrix = words.startswith("NRRD"), np.eye(4)
    try:
        axes, origin = (
            np.array([float(v) for v in re.split(r"[^-+.\deE]+", lines[name]) if v])
            for name in (("space directions", "space origin") if nrrd else ("TransformMatrix", "Offset"))
        )
        spacing = np.ones(3) if nrrd else np.array([float(v) for v in lines["ElementSpacing"].split()])
        matrix[:3, :3], matrix[:3, 3] = axes.reshape(3, 3).T * spacing, origin
    except (KeyError, ValueError):
        return None
    return TO_LPS @ matrix


def verdict(mine: Reading | str, oracle: Reading | str, whole: Whole, path: Path) -> str:
    """One word for what happened."""
    if isinstance(mine, str):
        return "hang" if mine == "hang" else "crash"
    if mine.array is None:
        named = any(name in mine.text for name in (path.name, *whole.files))
        told = mine.code.startswith("E_") and named and len(mine.text) > len(mine.code) + len(str(path))
        return f"refused {mine.code}" if told else "refused without file or cause"
    if same(mine, whole.array, whole.matrix):
        return "equal to the original"
    if isinstance(oracle, Reading) and oracle.array is not None and oracle.matrix is not None:
        if same(mine, oracle.array, oracle.matrix):
            return "equal to the independent reader"
        return "different, with a note" if mine.notes else "wrong"
    if mine.notes:
        return "different, with a note"
    words = stated(path) if path.suffix in (".nrrd", ".nhdr", ".mha", ".mhd") else None
    return "equal to the words of the header" if words is not None and same(mine, whole.array, words) else "unjudged"


def main() -> None:
    """Fuzzes all formats in turn and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", default=",".join(ENDINGS))
    parser.add_argument("--damage", default=",".join(DAMAGE), help="fields and bytes change headers, cut and bit any part of a file")
    parser.add_argument("--keep", type=Path, default=None, help="folder for files with a verdict worth a look")
    arguments = parser.parse_args()
    readers = Reader(ours), Reader(theirs)
    kinds, ways = arguments.formats.split(","), {name: DAMAGE[name] for name in arguments.damage.split(",")}
    totals: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number, kind in enumerate(kinds):
            share = arguments.count // len(kinds) + (number < arguments.count % len(kinds))
            rng = np.random.default_rng([arguments.seed, number])
            totals += fuzz(kind, share, rng, Path(folder), readers, arguments.keep, ways)
    for reader in readers:
        reader.end()
    print(f"all {arguments.count}: " + ", ".join(f"{name} {count}" for name, count in sorted(totals.items())))
    print(f"slowest answer: ours {readers[0].slowest:.2f} s, independent readers {readers[1].slowest:.2f} s")


def fuzz(
    kind: str, count: int, rng: np.random.Generator, folder: Path, readers: tuple[Reader, Reader], keep: Path | None, ways: dict[str, float]
) -> collections.Counter[str]:
    """Damages and reads `count` files of one format; prints and gives the sums."""
    found: collections.Counter[str] = collections.Counter()
    codes: collections.Counter[str] = collections.Counter()
    for index in range(count):
        if index % 20 == 0:
            whole = write(kind, rng, folder / f"{kind}-{index}")
        place = folder / "damaged"
        shutil.rmtree(place, ignore_errors=True)
        target = place / "a" if kind == "dicom" else place
        target.mkdir(parents=True)
        for name, data in damage(kind, whole, rng, ways).items():
            (target / name).write_bytes(data)
        path = target if kind == "dicom" else target / next(iter(whole.files))
        mine, oracle = readers[0].ask(path), readers[1].ask(path)
        word = verdict(mine, oracle, whole, path)
        if isinstance(oracle, str):
            found[f"independent reader: {oracle if oracle in ('hang', 'died') else 'crash'}"] += 1
        elif oracle.array is not None and isinstance(mine, Reading) and mine.array is None:
            exact = same(oracle, whole.array, whole.matrix)
            found["independent reader accepts what we refuse" + (", the original" if exact else "")] += 1
        if word.startswith("refused E_"):
            codes[word.removeprefix("refused ")] += 1
            word = "refused"
        found[word] += 1
        if word in ("hang", "crash", "wrong", "unjudged", "refused without file or cause"):
            _tell(kind, index, word, mine, oracle, whole)
            if keep is not None:
                shutil.copytree(target, keep / f"{kind}-{index}-{word.split()[0]}", dirs_exist_ok=True)
    print(f"{kind:8} {count:5}: " + ", ".join(f"{name} {number}" for name, number in sorted(found.items())))
    print(f"         {' '.join(f'{code}:{number}' for code, number in sorted(codes.items()))}", flush=True)
    return found


def _tell(kind: str, index: int, word: str, mine: Reading | str, oracle: Reading | str, whole: Whole) -> None:
    shown = mine if isinstance(mine, str) else mine.text
    print(f"! {kind} {index} {word}: {shown[:300]}")
    for name, one in (("ours", mine), ("independent", oracle), ("original", Reading(whole.array, whole.matrix))):
        if isinstance(one, Reading) and one.array is not None:
            print(f"    {name}: {one.array.shape}, {np.array2string(one.matrix[:3], precision=4, separator=',').replace(chr(10), '')}")
        elif name == "independent":
            print(f"    {name}: {one if isinstance(one, str) else f'{one.code}: {one.text[:100]}'}")


if __name__ == "__main__":
    main()
