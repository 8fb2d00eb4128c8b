"""What looks wrong in the log of a run, said with its likely cause; and when a fold is dead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoseg3d.training.state import Progress

_STUCK_EPOCHS, _STUCK_FROM = 5, 0.1
_LOST_EPOCHS, _LOST_FROM, _LOST_BELOW = 3, 0.3, 0.05
_DIVERGING_EPOCHS, _DIVERGING_BY = 3, 0.3
_DEAD_AFTER_BAD_STEPS = 20
_DEAD_STEPS, _DEAD_FROM = 500, 0.25

Record = Mapping[str, Any]


def new_alarms(log: Sequence[Record]) -> list[str]:
    """Alarms that the last record of an attempt's log raises and the record before it did not."""
    before = _standing(log[:-1])
    return [message for key, message in _standing(log).items() if key not in before]


def dead(progress: Progress, log: Sequence[Record]) -> str | None:
    """Why this attempt will come to nothing, or None.

    Twenty steps in a row without a finite gradient, or a quarter of the run (at least 500 steps) in which no label ever
    scored above zero.
    """
    if progress.bad_in_a_row >= _DEAD_AFTER_BAD_STEPS:
        return f"{progress.bad_in_a_row} steps in a row gave no finite loss or gradient"
    if not log or progress.step < _DEAD_STEPS or log[-1]["position"] < _DEAD_FROM:
        return None
    if any(value for record in log for value in record["dice"].values()):
        return None
    return f"no label has scored above zero in {progress.step} steps"


def _standing(log: Sequence[Record]) -> dict[str, str]:
    """The alarms that stand at the end of this log, by a key of their own."""
    if not log:
        return {}
    found = {}
    last = log[-1]
    if last["skipped"]:
        found["skipped"] = (
            f"{last['skipped']} steps of this epoch were skipped, their loss or gradient was NaN or infinite. "
            "Likely a too high learning rate, or extreme intensities in the data"
        )
    if _diverging(log):
        found["diverging"] = "the loss is higher than at the start: training diverges. Likely a too high learning rate"
    for label in last["dice"]:
        scores = [record["dice"][label] for record in log if record["dice"].get(label) is not None]
        if last["position"] >= _STUCK_FROM and len(scores) >= _STUCK_EPOCHS and not any(scores[-_STUCK_EPOCHS:]):
            found[f"stuck {label}"] = (
                f"label '{label}' has stayed at Dice 0 for {_STUCK_EPOCHS} epochs. "
                "Likely it is rare or tiny, or wrongly labelled in some cases"
            )
        elif _lost(scores):
            found[f"lost {label}"] = (
                f"label '{label}' fell from Dice {max(scores):.2f} to {scores[-1]:.2f}. "
                "Likely a too high learning rate, or a wrongly labelled case"
            )
    return found


def _diverging(log: Sequence[Record]) -> bool:
    losses = [record["loss"] for record in log if record["loss"] is not None]
    recent = losses[1:][-_DIVERGING_EPOCHS:]
    return len(recent) == _DIVERGING_EPOCHS and min(recent) > losses[0] + _DIVERGING_BY


def _lost(scores: Sequence[float]) -> bool:
    recent = scores[-_LOST_EPOCHS:]
    return len(recent) == _LOST_EPOCHS and max(scores) > _LOST_FROM and max(recent) < _LOST_BELOW
