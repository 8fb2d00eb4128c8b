"""The dataset at a glance: how many cases, how fine, how large, and what is labelled in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from autoseg3d.pages import Block, Facts, Section, Table, Text
from planners.explain import triple_text
from planners.fingerprint import Fingerprint

_AXES = ("left–right", "front–back", "up–down")


def dataset_section(fingerprint: Fingerprint) -> Section:
    """Facts, a table of grids and a table of labels."""
    orientations = Counter(case.orientation or "unknown" for case in fingerprint.cases)
    blocks: list[Block] = [
        Facts(
            (
                ("cases", str(len(fingerprint.cases))),
                ("channels", ", ".join(fingerprint.channel_names)),
                ("labels", str(len(fingerprint.labels.labels))),
                (
                    "orientation",
                    ", ".join(f"{name} ({count})" if len(orientations) > 1 else name for name, count in orientations.most_common()),
                ),
            )
        ),
        _grids(fingerprint),
        _labels(fingerprint),
    ]
    if fingerprint.labels.ignore is not None:
        blocks.append(Text(f"Voxels with the value {fingerprint.labels.ignore} are ignored in training and scores.", quiet=True))
    return Section("The dataset at a glance", blocks)


def _grids(fingerprint: Fingerprint) -> Table:
    """Spacing, voxels and extent along the patient's axes."""
    spacings = fingerprint.spacings("canonical")
    shapes = np.array([[case.shape[axis] for axis in case.axes("canonical")] for case in fingerprint.cases])
    rows = [
        (what, *(_spread(values[:, 2 - axis], digits) for axis in range(3)))
        for what, values, digits in (("spacing (mm)", spacings, 3), ("voxels", shapes, 4), ("extent (mm)", spacings * shapes, 3))
    ]
    return Table(("median (lowest to highest)", *_AXES), rows)


def _labels(fingerprint: Fingerprint) -> Table:
    rows = []
    for label in fingerprint.labels.labels:
        seen = [case.labels[label.name] for case in fingerprint.cases if label.name in case.labels]
        present = [one for one in seen if one.voxels]
        rows.append(
            (
                label.name,
                triple_text(label.values).replace(" ×", ","),
                f"{len(present)} of {len(seen)}",
                _spread([one.volume_ml for one in present], 3),
                str(sum(one.touches_border for one in present)),
                _spread([one.components for one in present if one.components is not None], 3),
            )
        )
    return Table(("label", "values", "cases with it", "volume (mL)", "at the edge", "separate parts"), rows)


def _spread(values: Sequence[float] | np.ndarray, digits: int) -> str:
    """Median, and the range where there is one."""
    if not len(values):
        return "–"
    low, middle, high = (f"{float(v):.{digits}g}" for v in (np.min(values), np.median(values), np.max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"
