"""dataset.json as nnU-Net v2, nnU-Net v1 and the Medical Segmentation Decathlon write it, every fault with its key path."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoseg3d.errors import Autoseg3dError, DataError, DatasetError
from autoseg3d.files import read_json
from autoseg3d.io.names import ENDINGS
from planners.labels import LabelTable, label_table

_MEANT = 'for instance {"background": 0, "liver": 1}'


@dataclass(frozen=True)
class ListedCase:
    """One case as dataset.json names it; paths as written there, relative to the dataset's folder.

    The Decathlon gives no names: `id` is None, and the case is called like its image.
    """

    id: str | None
    images: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Description:
    """What dataset.json says about the data."""

    name: str | None
    channel_names: tuple[str, ...]
    labels: LabelTable
    num_training: int | None


@dataclass(frozen=True)
class Files:
    """What dataset.json says about the files: number of channels and ending, None where it does not say or has it wrong,
    and its own list of cases, None where the folders are the list.
    """

    channels: int | None
    file_ending: str | None
    listed: tuple[ListedCase, ...] | None


@dataclass
class _Reader:
    """Takes entries out of the document and gathers faults."""

    path: Path
    faults: list[Autoseg3dError] = field(default_factory=list)

    def fault(self, key: str, wanted: str, got: object, remedy: str = "Correct dataset.json") -> None:
        text = None if got is None else repr(got)
        shown = text if text is None or len(text) <= 200 else text[:200] + " …"
        what = f"dataset.json: '{key}' is {'missing' if got is None else 'wrong'}"
        self.faults.append(DataError(what, code="E_DATASET_JSON", file=self.path, field=key, wanted=wanted, got=shown, remedy=remedy))


def read_labels(path: Path) -> LabelTable:
    """The labels alone of a dataset.json, names with values or (as the Decathlon has them) values with names.

    Raises ReadError where the file is not JSON, DatasetError with everything that is wrong with its labels.
    """
    document, reader = read_json(path), _Reader(path)
    if not isinstance(document, dict):
        reader.fault("(whole file)", "an object {…}", document)
    elif (labels := _labels(reader, document, decathlon=True)) is not None:
        return labels
    raise DatasetError("no usable labels in dataset.json", reader.faults, file=path, remedy="Correct it")


def read_document(path: Path) -> tuple[Description | None, Files | None, list[Autoseg3dError]]:
    """The description in `path`, what it says about the files, and all faults of the document.

    The description is None where labels or channels are not usable. Raises ReadError where the file is not JSON.
    """
    document = read_json(path)
    reader = _Reader(path)
    if not isinstance(document, dict):
        reader.fault("(whole file)", "an object {…}", document)
        return None, None, reader.faults
    decathlon = "training" in document
    channels, labels = _channels(reader, document), _labels(reader, document, decathlon=decathlon)
    ending, number, name = _ending(reader, document), _number(reader, document), document.get("name")
    listed = _decathlon_cases(reader, document) if decathlon else _listed_cases(reader, document)
    files = Files(len(channels) or None, ending, listed)
    if labels is None or not channels:
        return None, files, reader.faults
    return Description(name if isinstance(name, str) and name else None, channels, labels, number), files, reader.faults


def _channels(reader: _Reader, document: dict[str, Any]) -> tuple[str, ...]:
    key = "channel_names" if "channel_names" in document else "modality"
    value = document.get(key)
    wanted = 'one name per channel, for instance {"0": "CT"}'
    if not isinstance(value, dict) or not value:
        reader.fault("channel_names" if value is None else key, wanted, value)
        return ()
    numbers = [str(i) for i in range(len(value))]
    if sorted(value, key=str) != sorted(numbers):
        reader.fault(key, f"the keys {', '.join(numbers)}", list(value))
        return ()
    for number in numbers:
        if not isinstance(value[number], str) or not value[number].strip():
            reader.fault(f"{key}.{number}", "a name", value[number])
            return ()
    return tuple(value[number] for number in numbers)


def _labels(reader: _Reader, document: dict[str, Any], *, decathlon: bool) -> LabelTable | None:
    value = document.get("labels")
    if not isinstance(value, dict) or not value:
        reader.fault("labels", f"names with their values, {_MEANT}", value)
        return None
    if all(key.strip().isdigit() for key in value) and all(isinstance(name, str) for name in value.values()):
        if not decathlon:
            turned = ", ".join(f'"{name}": {int(key)}' for key, name in list(value.items())[:8])
            reader.fault("labels", f"names with their values, {_MEANT}", value, f"Turn the entries round: {{{turned}}}")
            return None
        value = _turned(reader, value)
    before = len(reader.faults)
    if not set(value) - {"background", "ignore"}:
        reader.fault("labels", f"at least one label besides the background, {_MEANT}", value)
    for name, entry in value.items():
        values = entry if isinstance(entry, list) and entry else [entry]
        if not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 65535 for v in values):
            reader.fault(f"labels.{name}", "an integer from 0 to 65535, or a list of them for a region", entry)
    order = document.get("regions_class_order")
    if order is not None and not (isinstance(order, list) and all(isinstance(v, int) and 1 <= v <= 65535 for v in order)):
        reader.fault("regions_class_order", "a list of label values", order)
    if len(reader.faults) > before:
        return None
    try:
        return label_table(value, order)
    except ValueError as error:
        reader.faults.append(
            DataError(
                f"dataset.json: the labels contradict each other: {_sentence(error)}",
                code="E_DATASET_JSON",
                file=reader.path,
                field="labels",
                remedy="Correct dataset.json",
            )
        )
        return None


def _turned(reader: _Reader, value: dict[str, str]) -> dict[str, Any]:
    names = list(value.values())
    for name in sorted({name for name in names if names.count(name) > 1}):
        reader.fault("labels", "a name of its own for each value", f"{name} twice")
    return {("background" if int(key) == 0 else name): int(key) for key, name in value.items()}


def _sentence(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"].removeprefix("Value error, ")
    return str(error)


def _ending(reader: _Reader, document: dict[str, Any]) -> str | None:
    value = document.get("file_ending")
    if value is None:
        return None
    if not isinstance(value, str) or value.lower() not in ENDINGS:
        dotted = f".{value.lower()}" if isinstance(value, str) else ""
        remedy = f'Write "{dotted}"' if dotted in ENDINGS else "Convert the scans to one of these"
        reader.fault("file_ending", f"one of {', '.join(ENDINGS)}", value, remedy)
        return None
    return ".hdr" if value.lower() == ".img" else value.lower()  # the header stands for both files of a pair


def _number(reader: _Reader, document: dict[str, Any]) -> int | None:
    value = document.get("numTraining")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        reader.fault("numTraining", "the number of training cases", value)
        return None
    return value


def _listed_cases(reader: _Reader, document: dict[str, Any]) -> tuple[ListedCase, ...] | None:
    """nnU-Net's `dataset`: {case: {"images": [paths], "label": path}}."""
    value = document.get("dataset")
    if value is None:
        return None
    if not isinstance(value, dict) or not value:
        reader.fault("dataset", '{case: {"images": [paths], "label": path}}', value)
        return ()
    cases = []
    for case, entry in value.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not (isinstance(images, list) and images and all(isinstance(p, str) and p for p in images)):
            reader.fault(f"dataset.{case}.images", "a list of paths, one per channel", images)
        elif not (isinstance(label, str) and label):
            reader.fault(f"dataset.{case}.label", "a path", label)
        else:
            cases.append(ListedCase(case, tuple(images), label))
    return tuple(cases)


def _decathlon_cases(reader: _Reader, document: dict[str, Any]) -> tuple[ListedCase, ...]:
    """The Decathlon's `training`: [{"image": path, "label": path}]; the case is the image's name."""
    value = document["training"]
    if not isinstance(value, list) or not value:
        reader.fault("training", '[{"image": path, "label": path}]', value)
        return ()
    cases = []
    for index, entry in enumerate(value):
        image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if not (isinstance(image, str) and image and isinstance(label, str) and label):
            reader.fault(f"training.{index}", 'an object with the paths "image" and "label"', entry)
        else:
            cases.append(ListedCase(None, (image,), label))
    return tuple(cases)
