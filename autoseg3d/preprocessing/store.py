"""CaseStore: prepared cases on disk, read patch by patch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

import numpy as np

from autoseg3d.case import Placement
from autoseg3d.errors import UsageError
from autoseg3d.io.case_files import CaseFiles
from autoseg3d.preprocessing.case_file import OpenCase, open_case, widen
from autoseg3d.preprocessing.working_case import WorkingCase
from planners.contract import Triple

Index = tuple[EllipsisType | slice, ...]


@dataclass(frozen=True)
class CaseStore:
    """The prepared cases of one configuration.

    folder    where their files lie
    contents  content hash of every case by id
    files     the raw files of every case by id

    Arrays are in network-axis order. A store is small and can be sent to other processes; each process maps the cases
    it reads by itself and keeps the latest ones open.
    """

    folder: Path
    contents: Mapping[str, str]
    files: Mapping[str, CaseFiles]

    @property
    def ids(self) -> tuple[str, ...]:
        """The cases there are, in the dataset's order."""
        return tuple(self.contents)

    @property
    def content_hash(self) -> str:
        """SHA-256 over all cases: equal where all arrays are, on whatever machine and from whatever copy of the files."""
        text = "\n".join(f"{case} {content}" for case, content in sorted(self.contents.items()))
        return hashlib.sha256(text.encode()).hexdigest()

    def shape(self, case_id: str) -> Triple:
        """(Z, Y, X) of a case."""
        z, y, x = self._open(case_id).labels.shape
        return (z, y, x)

    def locations(self, case_id: str) -> dict[int, np.ndarray]:
        """Voxels (n, 3) int32 per foreground class, see `class_locations`; read-only."""
        return self._open(case_id).locations

    def placement(self, case_id: str) -> Placement:
        """The way from a working array back to the scan's own grid."""
        return self._open(case_id).record.placement

    def raw_files(self, case_id: str) -> CaseFiles:
        """The files the case was made from."""
        return self.files[self._known(case_id)]

    def read(self, case_id: str, start: Triple, shape: Triple) -> tuple[np.ndarray, np.ndarray]:
        """(C, *shape) float32 image and (*shape) int16 value indices from `start` on, which may lie outside of the case.

        Outside of the case the image is 0 and the labels are -1. Only the pages that hold the patch are read.
        """
        opened = self._open(case_id)
        image = np.zeros((len(opened.image), *shape), dtype=np.float32)
        labels = np.full(shape, -1, dtype=np.int16)
        source, target = overlap(start, shape, opened.labels.shape)
        widen(opened.image[source], image[target])
        labels[target] = opened.labels[source]
        return image, labels

    def working_case(self, case_id: str) -> WorkingCase:
        """The whole case in memory: image float32 (to float16's precision where it is stored so), labels int16."""
        opened = self._open(case_id)
        image = np.empty(opened.image.shape, dtype=np.float32)
        widen(opened.image, image)
        return WorkingCase(case_id, image, opened.labels.astype(np.int16), opened.record.placement, opened.locations)

    def _open(self, case_id: str) -> OpenCase:
        return open_case(case_path(self.folder, case_id), self.contents[self._known(case_id)])

    def _known(self, case_id: str) -> str:
        if case_id not in self.contents:
            raise UsageError(f"no case '{case_id}' among the {len(self.contents)} prepared ones", code="E_UNKNOWN_CASE", file=self.folder)
        return case_id


def case_path(folder: Path, case_id: str) -> Path:
    """The file of a case in a folder of prepared cases."""
    return folder / f"{case_id}.safetensors"


def overlap(start: Triple, shape: Triple, whole: tuple[int, ...]) -> tuple[Index, Index]:
    """Where a box lies inside an array, and where that part lies inside the box; empty slices where they do not meet."""
    source: list[slice] = []
    target: list[slice] = []
    for first, size, n in zip(start, shape, whole, strict=True):
        low, high = max(first, 0), min(first + size, n)
        high = max(high, low)
        low, high = (0, 0) if low >= n or high <= 0 else (low, high)
        source.append(slice(low, high))
        target.append(slice(low - first, high - first) if high > low else slice(0, 0))
    return (..., *source), (..., *target)
