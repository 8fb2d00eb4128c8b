"""Which labels an evaluation is about: those of a dataset.json, or the values that the label maps hold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autoseg3d.io.dataset_json import read_labels
from planners.labels import Label, LabelTable


def find_label_table(reference: Path | str) -> LabelTable | None:
    """The LabelTable of dataset.json in the reference folder or the one above; None where there is none.

    Raises DatasetError where it is there and its labels make no sense.
    """
    folder = Path(reference) if Path(reference).is_dir() else Path(reference).parent
    for path in (folder / "dataset.json", folder.resolve().parent / "dataset.json"):
        if path.is_file():
            return read_labels(path)
    return None


def table_of_values(values: Iterable[int]) -> LabelTable | None:
    """A LabelTable of the values above 0, each named by its number; None where there are none."""
    found = sorted({value for value in values if value > 0})
    return LabelTable(labels=tuple(Label(name=str(value), values=(value,), paint=value) for value in found)) if found else None
