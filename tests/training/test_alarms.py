"""Alarms: raised once, with the label's name and a likely cause; death only for runs that come to nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from spheres import Spheres

from autoseg3d.training.alarms import LabelFacts, dead, label_facts, missing_labels, uninformed_loss
from autoseg3d.training.alarms import new_alarms as raised_alarms
from autoseg3d.training.state import Progress
from planners.labels import label_table

PLENTY = LabelFacts(present=40, cases=40, voxels=9000, centred=0.2)
FACTS = {"organ": PLENTY, "other": PLENTY}


def new_alarms(records: list[dict[str, Any]]) -> list[str]:
    return raised_alarms(records, FACTS, batch_size=2)


def log(*dice: float | None, loss: list[float | None] | None = None, skipped: int = 0) -> list[dict[str, Any]]:
    losses = loss or [1.0 / (i + 1) for i in range(len(dice))]
    return [
        {
            "dice": {"organ": value, "other": 0.5},
            "voxels": {"organ": 4000, "other": 4000},
            "loss": losses[i],
            "skipped": skipped,
            "position": 0.05 * (i + 1),
            "step": 100 * (i + 1),
            "learning_rate": 0.01,
        }
        for i, value in enumerate(dice)
    ]


def test_a_good_run_raises_nothing() -> None:
    records = log(0.0, 0.0, 0.1, 0.3, 0.5, 0.7)
    assert all(new_alarms(records[:n]) == [] for n in range(1, 7))


def test_a_stuck_label_is_named_once_and_not_within_a_fifth_of_the_run() -> None:
    records = log(*[0.0] * 12)
    raised = [new_alarms(records[:n]) for n in range(1, 13)]
    assert [len(messages) for messages in raised] == [0, 0, 0, 0, 1, *[0] * 7]
    assert "'organ'" in raised[4][0]
    assert "about 200 of 1000 patches so far" in raised[4][0]
    # The same five epochs are the beginning only of a run twenty times as long.
    slow = [{**record, "position": record["position"] / 20} for record in records]
    assert all(new_alarms(slow[:n]) == [] for n in range(1, 13))
    # A long run is not waited for: ten thousand steps are enough.
    assert new_alarms([{**record, "step": 25 * record["step"]} for record in slow[:5]])


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        (LabelFacts(0, 40, 0, 0.0), "No training case"),
        (LabelFacts(40, 40, 12, 0.2), "12 voxels in the median one"),
        (LabelFacts(40, 40, 12, 0.2), "too small"),
        (LabelFacts(2, 40, 900, 0.05), "too rare"),
        (LabelFacts(2, 40, 900, 0.005), "hardly been seen"),
        (replace(PLENTY, centred=0.19), "found one after the other"),
        (PLENTY, "drawn differently"),
    ],
)
def test_the_cause_is_looked_up_in_the_training_cases(facts: LabelFacts, cause: str) -> None:
    (message,) = raised_alarms(log(*[0.0] * 5), {**FACTS, "organ": facts}, batch_size=2)
    assert cause in message


class _OneSided(Spheres):
    """Only the first case has a bright ball."""

    def locations(self, case_id: str) -> dict[int, np.ndarray]:
        found = super().locations(case_id)
        return found if case_id == "case_0" else {**found, 1: np.empty((0, 3), np.int32)}


def test_the_facts_of_labels_come_from_the_training_cases_alone() -> None:
    labels = label_table({"background": 0, "bright": 1, "dim": 2})
    facts = label_facts(_OneSided(), ["case_0", "case_1"], labels, foreground_fraction=0.4)
    # Of the forced 40 %, half of the first case's patches are centred on each ball, all of the second's on the dim one.
    assert facts["bright"] == LabelFacts(1, 2, facts["bright"].voxels, 0.4 * 0.25)
    assert facts["dim"].centred == pytest.approx(0.4 * 0.75)
    assert 200 < facts["bright"].voxels < 300
    assert missing_labels(facts) == []
    (alarm,) = missing_labels(label_facts(_OneSided(), ["case_1"], labels, foreground_fraction=0.4))
    assert "'bright' cannot be learnt" in alarm


def test_a_label_that_validation_never_showed_is_not_stuck() -> None:
    assert new_alarms(log(*[None] * 6)) == []


def test_slivers_at_the_edges_of_patches_say_nothing_of_a_label() -> None:
    def slivers(records: list[dict[str, Any]], shown: int) -> list[dict[str, Any]]:
        return [{**record, "voxels": {"organ": shown, "other": 4000}} for record in records]

    found, missed = log(0.2, 0.9, 0.9), log(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    quarter = PLENTY.voxels // 4
    assert new_alarms([*found, *slivers(missed[:3], quarter - 1)]) == []
    assert "fell from Dice 0.90" in new_alarms([*found, *slivers(missed[:3], quarter)])[0]
    assert new_alarms(slivers(missed, quarter - 1)) == []


def test_a_lost_label_and_divergence_are_told() -> None:
    assert "fell from Dice 0.60" in new_alarms(log(0.2, 0.6, 0.5, 0.0, 0.01, 0.0))[0]
    assert "diverges" in new_alarms(log(0.1, 0.2, 0.3, 0.4, loss=[0.5, 0.9, 1.0, 1.1]))[0]
    assert new_alarms(log(0.1, 0.2, 0.3, 0.4, loss=[0.5, 0.9, None, 0.2])) == []


def test_skipped_steps_are_counted() -> None:
    assert "3 steps" in new_alarms(log(0.5, skipped=3))[0]


def test_death() -> None:
    def verdict(progress: Progress, records: list[dict[str, Any]]) -> str | None:
        return dead(progress, records, uninformed=1.1)

    assert verdict(Progress(bad_in_a_row=19), []) is None
    assert verdict(Progress(bad_in_a_row=20), []) is not None
    nothing = [{**record, "dice": {"organ": 0.0}} for record in log(*[0.0] * 6)]
    assert verdict(Progress(step=499), nothing) is None
    assert verdict(Progress(step=600), nothing[:4]) is None  # a fifth of the run
    assert "no label" in str(verdict(Progress(step=600), nothing))
    assert verdict(Progress(step=600), [*nothing, *log(0.1)]) is None
    hopeless = log(*[0.2] * 6, loss=[9.0, 5.0, 1.0, 2.0, 1.9, 1.5])
    assert "knows nothing" in str(verdict(Progress(step=100), hopeless))
    assert verdict(Progress(step=99), hopeless) is None
    assert verdict(Progress(step=100), hopeless[:5]) is None


def test_the_loss_of_knowing_nothing() -> None:
    assert uninformed_loss(label_table({"background": 0, "a": 1, "b": 2})) == pytest.approx(np.log(3))
    regions = {"background": 0, "whole": [1, 2], "core": 2}
    assert uninformed_loss(label_table(regions, [1, 2])) == pytest.approx(np.log(2))
    assert uninformed_loss(label_table({**regions, "ignore": 3}, [1, 2])) == pytest.approx(2 * np.log(2))
