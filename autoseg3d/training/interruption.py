"""Signals that ask a run to stop: noted at once, obeyed at the next safe point."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from torch import nn

from autoseg3d.errors import InterruptedByUserError

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Interruption:
    """While active, SIGINT, SIGTERM and SIGHUP are noted; `check` turns a noted one into InterruptedByUserError.

    One that is ignored already stays so: `nohup` asks for a run that outlives its terminal.

    Where everything is on disk already (`immediate`), the error is raised out of the handler instead. Python only
    lets the main thread take signals; in another thread nothing is caught and `check` never raises.
    """

    def __init__(self) -> None:
        self.immediate = True
        self._signal: str | None = None
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNALS:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
        if self.immediate:
            self.check()

    def check(self) -> None:
        """Raises InterruptedByUserError where a signal has come."""
        if self._signal is not None:
            remedy = "Run the same command with --resume to go on"
            raise InterruptedByUserError(f"stopped by {self._signal}", remedy=remedy)

    def watch(self, network: nn.Module) -> None:
        """Checks before every layer of the forward pass and after every weight gradient of the backward pass.

        A step of a large patch takes a minute on a CPU, far longer than a system waits after SIGTERM. Weights change
        in the optimiser only, which is not interrupted, so a step can be given up anywhere before it.
        """
        for module in network.modules():
            if not any(True for _ in module.children()):
                module.register_forward_pre_hook(lambda module, inputs: self.check())
        for parameter in network.parameters():
            parameter.register_post_accumulate_grad_hook(self._after_gradient)  # type: ignore[no-untyped-call]

    def _after_gradient(self, parameter: torch.Tensor) -> None:
        self.check()
