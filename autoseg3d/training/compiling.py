"""torch.compile where it works, and the plain network, said aloud, where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from autoseg3d.training.memory import out_of_memory


class Compiled:
    """The forward pass of a network in training, compiled at its first call.

    Compiling needs a C compiler and, on a GPU, Triton; where the first call fails the network runs as it is, and `fault` says why.

    Args:
        network: what to compile.
        backend: as torch.compile takes it.
    """

    def __init__(self, network: nn.Module, *, backend: str | Callable[..., Any] = "inductor") -> None:
        self.fault: str | None = None
        self._network, self._works = network, False
        self._compiled = torch.compile(network, dynamic=False, backend=backend)

    def __call__(self, images: Tensor) -> Any:
        """The network's outputs."""
        if self.fault is None:
            try:
                outputs = self._compiled(images)
                self._works = True
                return outputs
            except Exception as error:  # compilers fail in many ways
                if self._works or out_of_memory(error):
                    raise
                self.fault = f"the network could not be compiled and runs uncompiled, slower ({_first_line(error)})"
        return self._network(images)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
