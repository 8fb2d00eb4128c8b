"""A network that cannot be compiled runs as it is, and the reason is kept; errors of the network itself come through."""

from typing import Any

import pytest
import torch

from autoseg3d.training.compiling import Compiled


def _without_compiler(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
    """A backend as torch.compile takes it, on a machine without a compiler."""
    raise FileNotFoundError("no working C++ compiler found\nand a long story")


def _eager(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
    return graph.forward


def test_without_a_compiler_the_network_runs_uncompiled_and_says_so() -> None:
    network, images = torch.nn.Conv3d(1, 2, 3), torch.randn(1, 1, 5, 5, 5)
    ours = Compiled(network, backend=_without_compiler)
    assert torch.equal(ours(images), network(images))
    assert ours.fault is not None
    assert "runs uncompiled" in ours.fault
    assert "\n" not in ours.fault
    assert torch.equal(ours(images), network(images))


class _Choosy(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[0] > 1:
            raise ValueError("one at a time")
        return images + 1


def test_with_a_compiler_errors_of_the_network_are_its_own() -> None:
    ours = Compiled(_Choosy(), backend=_eager)
    assert float(ours(torch.zeros(1, 1))) == 1.0
    assert ours.fault is None
    with pytest.raises(ValueError, match="one at a time"):
        ours(torch.zeros(2, 1))


def test_memory_that_runs_out_is_no_fault_of_the_compiler() -> None:
    def greedy(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(Exception, match="out of memory"):
        Compiled(torch.nn.Conv3d(1, 2, 3), backend=greedy)(torch.randn(1, 1, 5, 5, 5))
