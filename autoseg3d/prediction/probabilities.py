"""Probabilities on the scan's own grid, streamed into an .npz file that NumPy reads; memory stays at a few rows."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from autoseg3d import files
from autoseg3d.case import Placement
from autoseg3d.errors import StorageError
from autoseg3d.geometry import Geometry
from autoseg3d.io.regrid import resample
from planners.labels import LabelTable

KEY = "probabilities"
_MAPPED_BYTES = 256 * 2**20
_HEADER_BYTES = 128  # of an .npy file with a short shape


class StreamedMap:
    """A (channels, Z, Y, X) float32 array in a file on the scan's own grid, filled row by row; 0 outside of the crop."""

    def __init__(self, path: Path, placement: Placement, channels: int) -> None:
        self.path, self._placement = path, placement
        self._written = 0
        self._array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(channels, *placement.native.shape))
        _allocate(path)

    def write(self, row: int, part: slice, values: Tensor) -> None:
        """Values (channels, Y', X') of row `row` of axis 0 and part of axis 1 of the cropped scan."""
        self._placement.crop(self._array)[:, row, part] = values.cpu().numpy()
        self._count(values.nbytes)

    @property
    def geometry(self) -> Geometry:
        """The grid of the map."""
        return self._placement.native

    @property
    def array(self) -> np.ndarray:
        """(channels, Z, Y, X) float32, mapped from the file."""
        return self._array

    def close(self) -> None:
        """Writes everything to the file and lets go of it."""
        self._array.flush()
        del self._array

    def _count(self, written: int) -> None:
        """Opens the file anew from time to time: pages that were written count as this process's memory while mapped."""
        self._written += written
        if self._written > _MAPPED_BYTES:
            self._array.flush()
            self._array = np.lib.format.open_memmap(self.path, mode="r+")
            self._written = 0


class ProbabilityMap(StreamedMap):
    """Probabilities of the network's channels; background 1 outside of the crop.

    Channels are background and labels (softmax), or regions (sigmoid, all 0 outside of the crop).
    """

    def __init__(self, path: Path, placement: Placement, labels: LabelTable) -> None:
        super().__init__(path, placement, labels.num_classes)
        if not labels.has_regions:
            for plane in self._array[0]:
                plane[...] = 1
                self._count(plane.nbytes)


@contextlib.contextmanager
def probability_file(path: Path, placement: Placement, labels: LabelTable, *, native: Geometry | None = None) -> Iterator[ProbabilityMap]:
    """A ProbabilityMap that becomes `path` (.npz, key "probabilities") when the block ends well.

    `native` is the grid of the scan's file where it is another than was computed on, as a sheared one is: its voxels take what the
    nearest ones have, as their labels do. An uncompressed copy lies beside it meanwhile. Raises StorageError where the disk is full.
    """
    with files.storage_errors(path), temporary_array(path.parent) as name:
        probabilities = ProbabilityMap(name, placement, labels)
        yield probabilities
        outside = [float(channel == 0 and not labels.has_regions) for channel in range(labels.num_classes)]
        with on_own_grid(probabilities, native or placement.native, outside) as own, files.replacing(path) as temporary:
            _compress(own, temporary)


@contextlib.contextmanager
def on_own_grid(streamed: StreamedMap, native: Geometry, outside: Sequence[float]) -> Iterator[Path]:
    """Closes a map and gives a file (.npy) of its channels on `native`: its own file, or a second one where the grids differ.

    Voxels of `native` take the nearest value; those that lie outside of the grid computed on take `outside`, one per channel.
    """
    if native == streamed.geometry:
        streamed.close()
        yield streamed.path
        return
    with temporary_array(streamed.path.parent) as name:
        array = np.lib.format.open_memmap(name, mode="w+", dtype=np.float32, shape=(len(outside), *native.shape))
        _allocate(name)
        for target, source, fill in zip(array, streamed.array, outside, strict=True):
            target[...] = resample(source, streamed.geometry, native, order=0, fill=fill)
        array.flush()
        streamed.close()
        yield name


@contextlib.contextmanager
def spilling(folder: Path, placement: Placement, labels: LabelTable) -> Iterator[ProbabilityMap]:
    """A ProbabilityMap in a temporary file in `folder`, named .tmp-*, that is gone when the block ends.

    Raises StorageError (E_DISK_FULL) before anything is written where the disk has no room for it.
    """
    needed = 4 * labels.num_classes * math.prod(placement.native.shape)
    with files.storage_errors(folder), temporary_array(folder) as name:
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise StorageError(
                "not enough space for the probabilities of a model whose slices run along another axis",
                code="E_DISK_FULL",
                wanted=f"{needed / 2**30:.1f} GiB",
                got=f"{free / 2**30:.1f} GiB free",
                remedy="Free some space, choose another output folder, or predict with these models one by one",
            )
        probabilities = ProbabilityMap(name, placement, labels)
        yield probabilities
        del probabilities


@contextlib.contextmanager
def temporary_array(folder: Path) -> Iterator[Path]:
    """The path of an empty file in `folder`, named .tmp-*.npy, that is gone when the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=".npy", dir=folder)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        os.unlink(name)


def _allocate(path: Path) -> None:
    """Claims the disk space of a sparse file: a full disk is an error here, and a crash of the process once it is mapped."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.seek(_HEADER_BYTES)
            for _ in range(_HEADER_BYTES, size, 2**20):
                file.write(bytes(2**20))
            file.truncate(size)


def _compress(source: Path, target: Path) -> None:
    with (
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        source.open("rb") as raw,
        archive.open(f"{KEY}.npy", "w", force_zip64=True) as member,
    ):
        while block := raw.read(2**20):
            member.write(block)
