"""Probabilities on the scan's own grid, streamed into an .npz file that NumPy reads; memory stays at a few rows."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoseg3d import files
from autoseg3d.case import Placement
from planners.labels import LabelTable

KEY = "probabilities"
_MAPPED_BYTES = 256 * 2**20
_HEADER_BYTES = 128  # of an .npy file with a short shape


class ProbabilityMap:
    """A (K, Z, Y, X) float32 array in a file, filled row by row from logits; background 1 outside the crop.

    Channels are those of the network: background and labels (softmax), or regions (sigmoid, all 0 outside the crop).
    """

    def __init__(self, path: Path, placement: Placement, labels: LabelTable) -> None:
        self._path, self._placement, self._regions = path, placement, labels.has_regions
        self._written = 0
        shape = (labels.num_classes, *placement.native.shape)
        self._array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        _allocate(path)
        if not self._regions:
            for plane in self._array[0]:
                plane[...] = 1
                self._count(plane.nbytes)

    def write(self, row: int, part: slice, logits: Tensor) -> None:
        """The probabilities of row `row` of axis 0 and part of axis 1 of the cropped scan, from its logits (K, Y', X')."""
        values = torch.sigmoid(logits) if self._regions else torch.softmax(logits, dim=0)
        self._placement.crop(self._array)[:, row, part] = values.cpu().numpy()
        self._count(values.nbytes)

    def close(self) -> None:
        """Writes everything to the file and lets go of it."""
        self._array.flush()
        del self._array

    def _count(self, written: int) -> None:
        """Opens the file anew from time to time: pages that were written count as this process's memory while mapped."""
        self._written += written
        if self._written > _MAPPED_BYTES:
            self._array.flush()
            self._array = np.lib.format.open_memmap(self._path, mode="r+")
            self._written = 0


@contextlib.contextmanager
def probability_file(path: Path, placement: Placement, labels: LabelTable) -> Iterator[ProbabilityMap]:
    """A ProbabilityMap that becomes `path` (.npz, key "probabilities") when the block ends well.

    An uncompressed copy lies beside it meanwhile. Raises StorageError where the disk is full.
    """
    with files.storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=".npy", dir=path.parent)
        os.close(handle)
        try:
            probabilities = ProbabilityMap(Path(name), placement, labels)
            yield probabilities
            probabilities.close()
            with files.replacing(path) as temporary:
                _compress(Path(name), temporary)
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
