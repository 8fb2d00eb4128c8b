"""Signals are noted and obeyed at safe points, also in the middle of a long backward pass."""

import os
import signal
import threading

import pytest
import torch
from torch import nn

from autoseg3d.errors import InterruptedByUserError
from autoseg3d.training.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_told_at_the_next_check(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interruption() as interruption:
        interruption.immediate = False
        interruption.check()
        os.kill(os.getpid(), number)
        assert interruption.requested
        with pytest.raises(InterruptedByUserError, match=number.name) as caught:
            interruption.check()
        assert caught.value.exit_code == 4
        assert "--resume" in str(caught.value)
    assert signal.getsignal(number) is before


def test_where_nothing_is_at_stake_it_stops_at_once() -> None:
    with Interruption(), pytest.raises(InterruptedByUserError):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_backward_pass_is_left_between_layers() -> None:
    network = nn.Sequential(nn.Linear(4, 4), _Signal(), nn.Linear(4, 4))
    with Interruption() as interruption:
        interruption.immediate = False
        interruption.watch(network)
        loss = network(torch.ones(1, 4)).sum()
        assert not interruption.requested
        with pytest.raises(InterruptedByUserError):
            loss.backward()
    assert network[2].weight.grad is not None  # type: ignore[union-attr]
    assert network[0].weight.grad is None  # type: ignore[union-attr]


def test_a_forward_pass_is_left_between_layers() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with Interruption() as interruption:
        interruption.immediate = False
        interruption.watch(network)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(InterruptedByUserError):
            network(torch.ones(1, 4))


def test_another_thread_catches_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with Interruption() as interruption:
            interruption.check()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


class _Signal(nn.Module):
    """Sends SIGTERM to this process when the backward pass comes through."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x.register_hook(lambda gradient: os.kill(os.getpid(), signal.SIGTERM))
        return x


def test_a_signal_that_is_ignored_already_stays_ignored() -> None:
    """nohup asks for a training that outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interruption.requested
    finally:
        signal.signal(signal.SIGHUP, before)
