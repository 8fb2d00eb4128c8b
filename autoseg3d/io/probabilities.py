"""Reading the probabilities that a prediction saved, class by class, so that memory does not grow with the classes."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from autoseg3d.errors import ReadError

KEY = "probabilities"
"""The name of the array in the .npz file."""


class ProbabilityReader:
    """The classes of one file in turn. `shape` is (K, Z, Y, X)."""

    def __init__(self, member: IO[bytes], path: Path) -> None:
        self._member, self._path = member, path
        self.shape, self._dtype = _header(member, path)

    def classes(self) -> Iterator[np.ndarray]:
        """The probability of each class in the order of the network's channels: float32 (Z, Y, X). May be run through once.

        Raises ReadError where the file ends early, is damaged, or holds what is no probability.
        """
        count = self.shape[1] * self.shape[2] * self.shape[3]
        for _ in range(self.shape[0]):
            data = self._member.read(self._dtype.itemsize * count)
            if len(data) != self._dtype.itemsize * count:
                raise _unreadable(self._path, "it ends early")
            values = np.frombuffer(data, dtype=self._dtype).reshape(self.shape[1:]).astype(np.float32, copy=False)
            if count and not (values.min() >= 0 and values.max() <= 1):
                raise _unreadable(self._path, f"values from {values.min()} to {values.max()} are no probabilities")
            yield values


@contextmanager
def open_probabilities(path: Path | str) -> Iterator[ProbabilityReader]:
    """Opens OUT/<case>.npz. Raises ReadError where it is not what `predict --save-probabilities` writes."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{KEY}.npy") as member:
            yield ProbabilityReader(member, path)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError) as error:
        raise _unreadable(path, str(error)) from error


def _header(member: IO[bytes], path: Path) -> tuple[tuple[int, int, int, int], np.dtype]:
    try:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(member)
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    if fortran or dtype not in (np.dtype("<f4"), np.dtype("<f2")) or len(shape) != 4:
        raise _unreadable(path, f"it holds {dtype} of shape {shape}")
    return (shape[0], shape[1], shape[2], shape[3]), dtype


def _unreadable(path: Path, why: str) -> ReadError:
    wanted, remedy = f"'{KEY}', float16 or float32 (classes, Z, Y, X)", "Predict the case again with --save-probabilities"
    return ReadError(f"the probabilities cannot be read: {why}", file=path, wanted=wanted, remedy=remedy)
