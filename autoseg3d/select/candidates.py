"""The postprocessing steps that are tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from autoseg3d.select.parts import CaseParts
from planners.labels import LabelTable
from planners.postprocessing import DropSmall, KeepLargest

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Minimal sizes tried, as shares of the usual (median) volume of the label in the references."""

Step = KeepLargest | DropSmall


def foreground_steps(cases: Sequence[CaseParts], labels: LabelTable) -> Iterator[Step]:
    """Steps on all labels together. The usual volume is that of the largest label: overlapping regions would count twice."""
    usual = max((_usual_ml(cases, i) for i in range(len(labels.labels))), default=0.0)
    return _steps(labels.values, usual)


def label_steps(cases: Sequence[CaseParts], labels: LabelTable, index: int) -> Iterator[Step]:
    """Steps on one label of the table."""
    return _steps(labels.labels[index].values, _usual_ml(cases, index))


def _steps(values: tuple[int, ...], usual_ml: float) -> Iterator[Step]:
    yield KeepLargest(values=values)
    for share in SHARES:
        if usual_ml > 0:
            yield DropSmall(values=values, minimal_ml=float(f"{share * usual_ml:.2g}"))


def _usual_ml(cases: Sequence[CaseParts], index: int) -> float:
    volumes = [case.reference[index] * case.voxel_ml for case in cases if case.reference[index]]
    return float(np.median(volumes)) if volumes else 0.0
