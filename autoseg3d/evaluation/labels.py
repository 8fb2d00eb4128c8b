"""Which labels an evaluation is about: those of a dataset.json, or the values that the label maps hold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autoseg3d.errors import ReadError
from autoseg3d.files import read_json
from planners.labels import Label, LabelTable, label_table


def find_label_table(reference: Path | str) -> LabelTable | None:
    """The LabelTable of dataset.json in the reference folder or the one above; None where there is none.

    Raises ReadError where it is there and its labels make no sense.
    """
    folder = Path(reference) if Path(reference).is_dir() else Path(reference).parent
    for path in (folder / "dataset.json", folder.resolve().parent / "dataset.json"):
        if path.is_file():
            return read_label_table(path)
    return None


def read_label_table(path: Path | str) -> LabelTable:
    """The LabelTable of a dataset.json (nnU-Net v2, or MSD's with values as keys). Raises ReadError where it makes no sense."""
    document = read_json(path)
    try:
        labels = document["labels"]
        if all(str(key).isdecimal() for key in labels):
            labels = {"background" if int(value) == 0 else str(name): int(value) for value, name in labels.items()}
        return label_table(labels, document.get("regions_class_order"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReadError(
            f"the labels make no sense: {error}",
            file=path,
            field="labels",
            code="E_LABELS",
            remedy="Correct dataset.json: every label name with its value",
        ) from error


def table_of_values(values: Iterable[int]) -> LabelTable | None:
    """A LabelTable of the values above 0, each named by its number; None where there are none."""
    found = sorted({value for value in values if value > 0})
    return LabelTable(labels=tuple(Label(name=str(value), values=(value,), paint=value) for value in found)) if found else None
