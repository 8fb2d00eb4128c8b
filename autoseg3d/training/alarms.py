"""What looks wrong in the log of a run, said with its likely cause; and when a fold is dead."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoseg3d.patches import CaseReader
from autoseg3d.training.state import Progress
from planners.labels import LabelTable

# A label is stuck after this share of the run, or this many steps of a long one, and never within this many epochs.
_STUCK_SHARE, _STUCK_STEPS, _STUCK_EPOCHS = 0.2, 10_000, 5
_LOST_EPOCHS, _LOST_FROM, _LOST_BELOW = 3, 0.3, 0.05
_DIVERGING_EPOCHS, _DIVERGING_BY = 3, 0.3
_DEAD_AFTER_BAD_STEPS = 20
_DEAD_STEPS, _DEAD_FROM, _HOPELESS_STEPS = 500, 0.25, 100
# What makes a label hard to learn: fewer patches, voxels, or cases than these.
_FEW_PATCHES, _FEW_VOXELS, _FEW_CASES = 20.0, 100, 0.1
# An epoch tells something of a label whose validation patches show at least this share of what a case has of it: that slivers at
# the edges of patches are missed is no sign of anything.
_SHOWN = 0.25
# Only after so many patches centred on a label does it mean anything that a network has not found it.
_ENOUGH_PATCHES = 200.0

Record = Mapping[str, Any]


@dataclass(frozen=True)
class LabelFacts:
    """How much of a label there is to learn from.

    present, cases   training cases that have it, and all
    voxels           median over those that have it, at the working spacing (of very large ones only a part is counted)
    centred          of all patches of a batch, the share that is centred on it, on average
    """

    present: int
    cases: int
    voxels: int
    centred: float

    def cause(self, patches: int) -> str:
        """What the facts say after so many patches, and what they make likely."""
        if not self.present:
            return "No training case of this fold has it: check dataset.json, or the folds in splits.json"
        told = f"It is in {self.present} of {self.cases} training cases, {self.voxels} voxels in the median one; "
        told += f"about {self.centred * patches:.0f} of {patches} patches so far were centred on it. "
        if self.centred * patches < _FEW_PATCHES:
            return told + "Likely it has hardly been seen yet: train longer"
        if self.voxels < _FEW_VOXELS:
            return told + "Likely it is too small at this spacing: plan with a finer one"
        if self.present < _FEW_CASES * self.cases:
            return told + "Likely it is too rare: more cases with it would help most"
        if self.centred * patches < _ENOUGH_PATCHES:
            return told + "That is early: labels are found one after the other. If it stays away, train longer"
        return told + "There is enough of it, so likely it is drawn differently from case to case, or the learning rate is too high"


def label_facts(store: CaseReader, cases: Sequence[str], labels: LabelTable, *, foreground_fraction: float) -> dict[str, LabelFacts]:
    """The facts of each label, by its name, from the stored locations of the training cases."""
    first = 0 if labels.has_regions else 1
    sizes = {case: {key - first: len(voxels) for key, voxels in store.locations(case).items() if key >= first} for case in cases}
    facts = {}
    for i, label in enumerate(labels.labels):
        having = [found for found in sizes.values() if found.get(i)]
        shares = [1 / sum(size > 0 for size in found.values()) for found in having]
        voxels = round(statistics.median([found[i] for found in having])) if having else 0
        facts[label.name] = LabelFacts(len(having), len(sizes), voxels, foreground_fraction * sum(shares) / len(sizes))
    return facts


def missing_labels(facts: Mapping[str, LabelFacts]) -> list[str]:
    """Alarms before the start: labels that cannot be learnt, since no training case has them."""
    return [f"label '{name}' cannot be learnt. {found.cause(0)}" for name, found in facts.items() if not found.present]


def uninformed_loss(labels: LabelTable) -> float:
    """The loss of a network that finds every class equally likely everywhere, its Dice term left away."""
    if not labels.has_regions:
        return math.log(labels.num_classes)
    return math.log(2) * (labels.num_classes if labels.ignore is not None else 1)


def new_alarms(log: Sequence[Record], facts: Mapping[str, LabelFacts], *, batch_size: int) -> list[str]:
    """Alarms that the last record of an attempt's log raises and the record before it did not."""
    before = _standing(log[:-1], facts, batch_size)
    return [message for key, message in _standing(log, facts, batch_size).items() if key not in before]


def dead(progress: Progress, log: Sequence[Record], *, uninformed: float) -> str | None:
    """Why this attempt will come to nothing, or None.

    Twenty steps in a row without a finite gradient; a quarter of the run (at least 500 steps) in which no label ever
    scored above zero; or a quarter (at least 100 steps) after which the loss is still far above that of a network that
    knows nothing (`uninformed`).
    """
    if progress.bad_in_a_row >= _DEAD_AFTER_BAD_STEPS:
        return f"{progress.bad_in_a_row} steps in a row gave no finite loss or gradient"
    if not log or log[-1]["position"] < _DEAD_FROM:
        return None
    recent = [record["loss"] for record in log[-_DIVERGING_EPOCHS:]]
    known = [loss for loss in recent if loss is not None]
    if progress.step >= _HOPELESS_STEPS and len(known) == _DIVERGING_EPOCHS and min(known) > uninformed + _DIVERGING_BY:
        return (
            f"the loss is {known[-1]:.3g} after {progress.step} steps, and {uninformed:.2f} would be that of a network that knows nothing"
        )
    if progress.step < _DEAD_STEPS or any(value for record in log for value in record["dice"].values()):
        return None
    return f"no label has scored above zero in {progress.step} steps"


def _standing(log: Sequence[Record], facts: Mapping[str, LabelFacts], batch_size: int) -> dict[str, str]:
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
        rate = f"the learning rate, {last['learning_rate']:.2g} now"
        found["diverging"] = f"the loss is higher than at the start: training diverges. Likely {rate}, is too high"
    for label in last["dice"]:
        shown = max(1.0, _SHOWN * facts[label].voxels)
        scored = [record for record in log if record["dice"].get(label) is not None and record["voxels"][label] >= shown]
        scores = [record["dice"][label] for record in scored]
        if stuck := _stuck(scored, label):
            patches = batch_size * last["step"]
            found[f"stuck {label}"] = f"label '{label}' has stayed at Dice 0 for {stuck} epochs. {facts[label].cause(patches)}"
        elif _lost(scores):
            found[f"lost {label}"] = (
                f"label '{label}' fell from Dice {max(scores):.2f} to {scores[-1]:.2f}. "
                "Likely a too high learning rate, or a wrongly labelled case"
            )
    return found


def _stuck(scored: Sequence[Record], label: str) -> int:
    """For how many epochs now a label has had no Dice; 0 where that is no reason to worry yet."""
    last_found = max((i for i, record in enumerate(scored) if record["dice"][label]), default=-1)
    since = len(scored) - 1 - last_found
    if since < _STUCK_EPOCHS:
        return 0
    position, step = (scored[last_found]["position"], scored[last_found]["step"]) if last_found >= 0 else (0.0, 0)
    long_enough = scored[-1]["position"] - position >= _STUCK_SHARE or scored[-1]["step"] - step >= _STUCK_STEPS
    return since if long_enough else 0


def _diverging(log: Sequence[Record]) -> bool:
    losses = [record["loss"] for record in log if record["loss"] is not None]
    recent = losses[1:][-_DIVERGING_EPOCHS:]
    return len(recent) == _DIVERGING_EPOCHS and min(recent) > losses[0] + _DIVERGING_BY


def _lost(scores: Sequence[float]) -> bool:
    recent = scores[-_LOST_EPOCHS:]
    return len(recent) == _LOST_EPOCHS and max(scores) > _LOST_FROM and max(recent) < _LOST_BELOW
