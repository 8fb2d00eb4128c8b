"""Alarms: raised once, with the label's name and a likely cause; death only for runs that come to nothing."""

from typing import Any

from autoseg3d.training.alarms import dead, new_alarms
from autoseg3d.training.state import Progress


def log(*dice: float | None, loss: list[float | None] | None = None, skipped: int = 0) -> list[dict[str, Any]]:
    losses = loss or [1.0 / (i + 1) for i in range(len(dice))]
    return [
        {"dice": {"organ": value, "other": 0.5}, "loss": losses[i], "skipped": skipped, "position": 0.05 * (i + 1)}
        for i, value in enumerate(dice)
    ]


def test_a_good_run_raises_nothing() -> None:
    records = log(0.0, 0.0, 0.1, 0.3, 0.5, 0.7)
    assert all(new_alarms(records[:n]) == [] for n in range(1, 7))


def test_a_stuck_label_is_named_once() -> None:
    records = log(*[0.0] * 8)
    raised = [new_alarms(records[:n]) for n in range(1, 9)]
    assert [len(messages) for messages in raised] == [0, 0, 0, 0, 1, 0, 0, 0]
    assert "'organ'" in raised[4][0]
    assert "rare or tiny" in raised[4][0]


def test_a_label_that_validation_never_showed_is_not_stuck() -> None:
    assert new_alarms(log(*[None] * 6)) == []


def test_a_lost_label_and_divergence_are_told() -> None:
    assert "fell from Dice 0.60" in new_alarms(log(0.2, 0.6, 0.5, 0.0, 0.01, 0.0))[0]
    assert "diverges" in new_alarms(log(0.1, 0.2, 0.3, 0.4, loss=[0.5, 0.9, 1.0, 1.1]))[0]
    assert new_alarms(log(0.1, 0.2, 0.3, 0.4, loss=[0.5, 0.9, None, 0.2])) == []


def test_skipped_steps_are_counted() -> None:
    assert "3 steps" in new_alarms(log(0.5, skipped=3))[0]


def test_death() -> None:
    assert dead(Progress(bad_in_a_row=19), []) is None
    assert dead(Progress(bad_in_a_row=20), []) is not None
    nothing = [{**record, "dice": {"organ": 0.0}} for record in log(*[0.0] * 6)]
    assert dead(Progress(step=499), nothing) is None
    assert dead(Progress(step=600), nothing[:4]) is None  # a fifth of the run
    assert "no label" in str(dead(Progress(step=600), nothing))
    assert dead(Progress(step=600), [*nothing, *log(0.1)]) is None
