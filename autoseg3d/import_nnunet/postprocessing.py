"""What nnU-Net chose to remove after prediction: postprocessing.json beside the pooled cross-validation, as our steps.

nnU-Net knows one operation, keeping the largest part of a label, a region or the union of several; its command
nnUNetv2_apply_postprocessing applies the list in order to fused labels. The same list exists as a .pkl, which may hold code
and is never read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autoseg3d import files
from autoseg3d.errors import ModelError
from planners.labels import LabelTable
from planners.postprocessing import KeepLargest, Postprocessing

_KEEP_LARGEST = "remove_all_but_largest_component_from_segmentation"
FOLDERS = "crossval_results_folds_*"


def read_postprocessing(model: Path, configuration: str, labels: LabelTable) -> tuple[Postprocessing | None, str | None]:
    """(the steps of a trained-model folder, None where it has none; a note where a list could not be read).

    Of several lists the one that pools most folds counts. Raises ModelError for an operation that is not known.
    """
    found = sorted(model.glob(f"{FOLDERS}/postprocessing.json"), key=lambda path: (path.parent.name.count("_"), path.parent.name))
    if not found:
        unread = next(iter(model.glob(f"{FOLDERS}/postprocessing.pkl")), None)
        note = f"{unread.relative_to(model)} is not read, since a .pkl file may hold code; its .json twin is missing" if unread else None
        return None, note
    listed = files.read_json(found[-1])
    names, settings = (listed.get(key) if isinstance(listed, Mapping) else None for key in ("postprocessing_fns", "postprocessing_kwargs"))
    if not isinstance(names, list) or not isinstance(settings, list) or len(names) != len(settings):
        wanted = "postprocessing_fns and postprocessing_kwargs, lists of equal length"
        raise ModelError("no list of operations", file=found[-1], field="postprocessing_fns", wanted=wanted)
    steps = tuple(_step(name, chosen, labels, found[-1]) for name, chosen in zip(names, settings, strict=True))
    reason = f"chosen by nnU-Net ({found[-1].parent.name})"
    return (Postprocessing(configurations=(configuration,), steps=steps, reason=reason) if steps else None), None


def _step(name: Any, settings: Any, labels: LabelTable, file: Path) -> KeepLargest:
    chosen = dict(settings) if isinstance(settings, Mapping) else {}
    values = tuple(sorted(set(_integers(chosen.pop("labels_or_regions", None), file)) & set(labels.values)))
    if name != _KEEP_LARGEST or chosen.pop("background_label", 0) != 0 or chosen or not values:
        wanted = f"{_KEEP_LARGEST} of labels that the dataset has"
        raise ModelError("unknown postprocessing", file=file, field="postprocessing_fns", wanted=wanted, got=f"{name} {settings}")
    return KeepLargest(values=values)


def _integers(value: Any, file: Path) -> Iterator[int]:
    """A label, a region or a list of both, as label values."""
    if isinstance(value, list):
        for entry in value:
            yield from _integers(entry, file)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value
    else:
        raise ModelError("not a label value", file=file, field="labels_or_regions", wanted="an integer or a list of integers", got=value)
