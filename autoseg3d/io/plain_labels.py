"""The label table of a dataset that has none: the values found in its label maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from autoseg3d.errors import Autoseg3dError, DataError, LabelError
from autoseg3d.io.case_files import CaseFiles
from autoseg3d.io.nifti_forms import GeometryChoice
from autoseg3d.io.volume import read_volume
from planners.labels import LabelTable, label_table


def scan_labels(
    cases: Sequence[CaseFiles], *, geometry: GeometryChoice, progress: Callable[[str, int, int], None] | None = None
) -> tuple[LabelTable | None, list[Autoseg3dError]]:
    """A table with one label per value found, named "label 1", …, and the faults of label maps that cannot be read."""
    values: set[int] = set()
    faults: list[Autoseg3dError] = []
    for done, case in enumerate(cases, start=1):
        if case.label is not None:
            try:
                values.update(_values(case, geometry))
            except DataError as error:
                error.case = case.id
                faults.append(error)
        if progress is not None:
            progress("reading label values", done, len(cases))
    if faults:
        return None, faults
    foreground = sorted(values - {0})
    if not foreground:
        fault = LabelError("no label map holds anything but background", code="E_NO_FOREGROUND", remedy="Check that these are label maps")
        return None, [fault]
    return label_table({"background": 0, **{f"label {value}": value for value in foreground}}), []


def _values(case: CaseFiles, geometry: GeometryChoice) -> list[int]:
    assert case.label is not None, "the caller has looked"
    labels = read_volume(case.label, geometry=geometry, labels=True).array
    if labels.min() < 0 or labels.max() > 65535:
        got = f"{labels.min()} to {labels.max()}"
        raise LabelError("label values must lie between 0 and 65535", file=case.label, wanted="0 to 65535", got=got)
    return [int(v) for v in np.flatnonzero(sum(np.bincount(plane.ravel(), minlength=65536) for plane in labels))]
