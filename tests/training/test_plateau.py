"""--until-converged: the forecast on curves whose truth is known, and a run that stops, falls, and resumes bit for bit."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spheres import TRAINING, sit

from autoseg3d.errors import InterruptedByUserError
from autoseg3d.training import log, plateau
from autoseg3d.training.plateau import FALL_SHARE, HORIZON_SHARE, WORTHWHILE_DICE, begin_fall, converged, fallen, forecast, must_fall, rate
from autoseg3d.training.state import Progress, load_state

PLATEAU = TRAINING.model_copy(update={"schedule": "plateau", "epochs": 40, "iterations": 4, "validation_iterations": 2})


def curve(top: float, height: float, exponent: float, *, epochs: int, noise: float, seed: int = 0) -> list[dict[str, Any]]:
    """Mean Dice after each epoch of 100 steps: top - height·(epoch/10)^-exponent, and noise."""
    rng = np.random.default_rng(seed)
    n = np.arange(1, epochs + 1)
    dice = np.clip(top - height * (n / 10.0) ** -exponent + noise * rng.standard_normal(epochs), 0, 1)
    return [{"step": 100 * int(i), "mean_dice": float(d), "dice": {"organ": float(d)}} for i, d in zip(n, dice, strict=True)]


def test_the_truth_lies_where_the_forecast_says_whatever_the_law() -> None:
    errors = []
    for epochs in (20, 30, 60, 200):
        for exponent in (0.3, 0.6, 1.0, 2.0):
            truth = 0.1 * ((epochs / 10) ** -exponent - ((1 + HORIZON_SHARE) * epochs / 10) ** -exponent)
            found = [forecast(curve(0.9, 0.1, exponent, epochs=epochs, noise=0.01, seed=seed)) for seed in range(10)]
            own = [(f.gain - truth) / f.deviation for f in found if f is not None]
            assert abs(np.mean(own)) < 2.5
            errors += own
    assert len(errors) == 160
    assert np.mean(np.abs(errors) < 2) > 0.85
    assert abs(np.mean(errors)) < 0.3


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_a_run_stops_where_little_is_left_to_gain_and_not_long_before(exponent: float) -> None:
    left = []
    for seed in range(8):
        log = curve(0.9, 0.1, exponent, epochs=2000, noise=0.01, seed=seed)
        end = next(n for n in _now_and_then(2000) if converged(log[:n]) is not None)
        left.append(0.1 * ((end / 10) ** -exponent - ((1 + HORIZON_SHARE) * end / 10) ** -exponent))
    assert np.median(left) < WORTHWHILE_DICE
    assert max(left) < 3 * WORTHWHILE_DICE


def _now_and_then(epochs: int) -> Iterator[int]:
    """Numbers of epochs a twentieth apart: a run asks after each."""
    n = 1
    while n <= epochs:
        yield n
        n += max(1, n // 20)


def test_a_steep_curve_goes_on_and_a_flat_one_does_not() -> None:
    rising = forecast(curve(0.9, 0.3, 0.5, epochs=30, noise=0.01))
    flat = forecast(curve(0.9, 0.1, 2.0, epochs=200, noise=0.01))
    assert rising is not None
    assert rising.worthwhile
    assert flat is not None
    assert not flat.worthwhile
    assert flat.gain + flat.deviation < WORTHWHILE_DICE
    assert str(flat).count(".") == 2


def test_noise_that_hides_a_gain_keeps_the_run_going() -> None:
    found = forecast(curve(0.9, 0.1, 2.0, epochs=30, noise=0.08))
    assert found is not None
    assert found.worthwhile


def test_a_few_epochs_are_no_basis() -> None:
    assert forecast(curve(0.9, 0.1, 1, epochs=9, noise=0)) is None
    assert forecast([{"step": i, "mean_dice": None} for i in range(50)]) is None


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    training = PLATEAU.model_copy(update={"warmup": 0.025, "learning_rate": 1.0})
    progress = Progress(step=2)
    assert rate(training, progress, 0.0) == 0.5  # the middle of a warm-up of one epoch
    progress.step = 100
    assert rate(training, progress, 0.6) == 1.0
    begin_fall(progress, 0.6)
    rates = []
    for step in range(100, 121, 5):
        progress.step = step
        rates.append(rate(training, progress, 0.6 + 0.001 * (step - 100)))
    assert rates[0] == 1.0
    assert rates[-1] == 0.0
    assert sorted(rates, reverse=True) == rates
    assert fallen(progress, 0.6) == 1.0
    # Where the limit is near, the fall is through when it comes.
    late = Progress(step=100)
    begin_fall(late, 0.95)
    assert fallen(late, 1.0) == 1.0
    assert must_fall(1 / (1 + FALL_SHARE))
    assert not must_fall(0.8)


def test_a_label_that_is_hardly_found_is_waited_for_but_not_for_ever() -> None:
    log = [{"step": 20 * i, "mean_dice": 0.4, "dice": {"organ": 0.8, "vessel": 0.01}} for i in range(1, 31)]
    assert converged(log) is None
    assert converged([{**record, "dice": {"organ": 0.8, "vessel": 0.3}} for record in log]) is not None
    assert converged([{**record, "step": 20 * record["step"]} for record in log]) is not None


def test_a_converged_run_says_so_ends_early_and_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A rate this small learns nothing, so the curve is flat, and the patience with labels not yet found is over.
    monkeypatch.setattr(plateau, "_PATIENCE_STEPS", 0)
    monkeypatch.setattr(plateau, "WORTHWHILE_DICE", 0.05)  # two batches of validation an epoch are noisy
    flat = PLATEAU.model_copy(update={"learning_rate": 1e-9})
    events: list[dict[str, Any]] = []
    whole = sit(tmp_path / "whole", training=flat, watch=events.append).progress
    (said,) = [event["message"] for event in events if event["event"] == "note" and "converged" in event["message"]]
    assert "±" in said
    begun = whole.fall_from
    assert begun is not None
    assert whole.step == begun + round(FALL_SHARE * begun) < 160
    assert whole.log[-1]["learning_rate"] < 1e-9

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["step"] > begun:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedByUserError):
        sit(tmp_path / "again", training=flat, watch=stop)
    again = sit(tmp_path / "again", training=flat).progress
    assert [log.untimed(record) for record in again.log] == [log.untimed(record) for record in whole.log]
    states = [load_state(tmp_path / name / "state") for name in ("whole", "again")]
    assert states[0] is not None
    assert states[1] is not None
    assert all(states[0].tensors[name].equal(tensor) for name, tensor in states[1].tensors.items())


def test_a_run_that_never_converges_has_fallen_when_its_limit_comes(tmp_path: Path) -> None:
    session = sit(tmp_path, training=PLATEAU.model_copy(update={"epochs": 6}))
    p = session.progress
    assert p.step == 24
    assert p.fall_from == 20
    assert [record["learning_rate"] for record in p.log[2:5]] == [TRAINING.learning_rate] * 3
    assert p.log[-1]["learning_rate"] <= TRAINING.learning_rate
