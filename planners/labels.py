"""LabelTable: what the label values of a dataset mean, and which classes a network predicts for them."""

from __future__ import annotations

import re
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from planners.contract import Contract

LabelValue = Annotated[int, Field(ge=1, le=65535)]

_SIDES = (("left", "right"), ("lt", "rt"), ("lh", "rh"), ("l", "r"))


class Label(Contract):
    """One foreground label, or a region (the union of several label values).

    name    as in dataset.json
    values  label values in the label maps that belong to it; more than one makes it a region
    paint   the value written to the output where it is predicted
    """

    name: str = Field(min_length=1)
    values: tuple[LabelValue, ...] = Field(min_length=1)
    paint: LabelValue


class LabelTable(Contract):
    """The foreground labels in the order of the dataset's own table; background is 0 and always present.

    Without regions a network has one softmax channel for the background and one per label, in this order. With
    regions it has one sigmoid channel per region, and regions are painted in this order, later over earlier.
    """

    labels: tuple[Label, ...] = Field(min_length=1)
    ignore: LabelValue | None = None

    @model_validator(mode="after")
    def _check(self) -> LabelTable:
        names = [label.name for label in self.labels]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"label names must differ; used twice: {', '.join(repeated)}")
        for label in self.labels:
            if self.ignore is not None and self.ignore in label.values:
                raise ValueError(f"label '{label.name}' holds the ignore value {self.ignore}")
        if self.ignore is not None and self.ignore <= max(self.values):
            raise ValueError(f"the ignore value must be the highest, got {self.ignore} with labels up to {max(self.values)}")
        if not self.has_regions:
            values = [label.values[0] for label in self.labels]
            if repeated_values := sorted({v for v in values if values.count(v) > 1}):
                raise ValueError(f"label values must differ; used twice: {repeated_values}")
        return self

    @property
    def has_regions(self) -> bool:
        """True where classes are overlapping regions (sigmoid), False where they exclude each other (softmax)."""
        return any(len(label.values) > 1 for label in self.labels)

    @property
    def num_classes(self) -> int:
        """Output channels of a network: one per region, or background plus one per label."""
        return len(self.labels) + (0 if self.has_regions else 1)

    @property
    def num_entries(self) -> int:
        """Entries of nnU-Net's `labels` table (background, labels or regions, ignore): its memory rule counts these."""
        return 1 + len(self.labels) + (self.ignore is not None)

    @property
    def values(self) -> tuple[int, ...]:
        """All foreground label values that may stand in a label map, ascending, without background and ignore."""
        return tuple(sorted({value for label in self.labels for value in label.values}))

    @property
    def allowed_values(self) -> tuple[int, ...]:
        """Every value that a label map may hold, ascending."""
        ignored = () if self.ignore is None else (self.ignore,)
        return tuple(sorted({0, *self.values, *ignored}))

    @property
    def class_paint(self) -> tuple[int, ...]:
        """The output value of each network channel: (0, paint, …) for labels, (paint, …) for regions."""
        painted = tuple(label.paint for label in self.labels)
        return painted if self.has_regions else (0, *painted)

    @property
    def class_members(self) -> tuple[tuple[int, ...], ...]:
        """For each foreground class of the network, the value indices (see `value_indices`) that belong to it."""
        position = {value: i for i, value in enumerate(self.values, start=1)}
        return tuple(tuple(sorted(position[v] for v in label.values)) for label in self.labels)

    @property
    def value_members(self) -> tuple[tuple[int, ...], ...]:
        """For each channel that a cascade hands on the value index that it marks: one per label value, also where there are regions."""
        return tuple((i,) for i in range(1, len(self.values) + 1))

    @property
    def ignore_index(self) -> int | None:
        """The value index of the ignore label, one above all others; None where the table has none."""
        return None if self.ignore is None else len(self.values) + 1

    def value_indices(self, label_map: np.ndarray) -> np.ndarray:
        """A label map with its values replaced by dense indices: int16, 0 background, i + 1 for `values[i]`.

        This is what networks are trained on, whatever gaps the dataset's values have; without regions a value index
        is the softmax channel. Raises ValueError naming the values that the table does not know.
        """
        top = max(self.allowed_values)
        table = np.full(top + 1, -1, dtype=np.int16)
        table[0] = 0
        for i, value in enumerate(self.values, start=1):
            table[value] = i
        if self.ignore is not None and self.ignore_index is not None:
            table[self.ignore] = self.ignore_index
        if label_map.size and label_map.min() >= 0 and label_map.max() <= top:
            if top == len(self.allowed_values) - 1:
                return label_map.astype(np.int16)  # 0, 1, 2 and so on stand for themselves
            known = np.empty(label_map.shape, dtype=np.int16)
            for part, out in zip(label_map, known, strict=True) if label_map.ndim > 1 else [(label_map, known)]:
                out[...] = table[part]  # plane by plane: numpy needs eight bytes for every index it looks up
            if known.min() >= 0:
                return known
        inside = (label_map >= 0) & (label_map <= top)
        indices = table[np.where(inside, label_map, 0)]
        wrong = ~inside | (indices < 0)
        if wrong.any():
            raise ValueError(f"label values {np.unique(label_map[wrong]).tolist()} are not in the table {list(self.allowed_values)}")
        return indices

    def left_right_pairs(self) -> tuple[tuple[str, str], ...]:
        """Pairs of names that differ only in a left/right word, each as (left name, right name).

        Words are split at punctuation and at a change from lower to upper case, so `RightParotid`, `kidney_left`
        and `L-Hippocampus` all count, and the l of `Lung` does not.
        """
        by_words = {tuple(_words(label.name)): label.name for label in self.labels}
        pairs = []
        for words, name in by_words.items():
            for left, right in _SIDES:
                swapped = tuple(right if word == left else word for word in words)
                if swapped != words and swapped in by_words:
                    pairs.append((name, by_words[swapped]))
                    break
        return tuple(pairs)


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]


def label_table(labels: dict[str, int | list[int] | tuple[int, ...]], regions_class_order: list[int] | None = None) -> LabelTable:
    """The LabelTable of an nnU-Net v2 `labels` entry, with `regions_class_order` where there are regions.

    Raises ValueError, naming the entry, where background is not 0, ignore is not a single value, or the number of
    painted values differs from the number of regions.
    """
    if labels.get("background", 0) != 0:
        raise ValueError(f"label 'background' must be 0, got {labels['background']!r}")
    ignore = labels.get("ignore")
    if ignore is not None and not isinstance(ignore, int):
        raise ValueError(f"label 'ignore' must be one integer, got {ignore!r}")
    named = {name: value for name, value in labels.items() if name not in ("background", "ignore")}
    tuples = {name: tuple(v) if isinstance(v, list | tuple) else (v,) for name, v in named.items()}
    if any(len(values) > 1 for values in tuples.values()):
        if regions_class_order is None or len(regions_class_order) != len(tuples):
            got = "nothing" if regions_class_order is None else f"{len(regions_class_order)} values"
            raise ValueError(f"labels hold regions, so regions_class_order needs {len(tuples)} values (one per region), got {got}")
        paints = list(regions_class_order)
    else:
        paints = [values[0] for values in tuples.values()]
        order = sorted(range(len(paints)), key=paints.__getitem__)
        tuples = {name: tuples[name] for name in (list(tuples)[i] for i in order)}
        paints = sorted(paints)
    return LabelTable(
        labels=tuple(Label(name=n, values=v, paint=p) for (n, v), p in zip(tuples.items(), paints, strict=True)),
        ignore=ignore,
    )
