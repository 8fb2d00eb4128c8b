"""The memory of one forward pass of a network that is at hand, without computing it."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn

from autoseg3d.cost.trace import Autocast, LiveBytes
from planners.contract import Triple

# Working memory of a convolution on a CPU per byte that it reads and writes, the heap's gaps counted in, fitted to passes of seven
# networks and to whole predictions (benchmarks/memory.py). In float32 less than in bfloat16, whose convolutions also hold float32 sums.
_REORDER = {torch.float32: 1.5}
_REORDER_REDUCED = 2.25


def inference_bytes(network: nn.Module, *, in_channels: int, patch_size: Triple, dtype: torch.dtype, features: bool = False) -> int:
    """Peak bytes of one window's forward pass: input, what layers hold and make, and the result; weights are left out.

    Args:
        network: meets the network contract; a copy without data is played through, itself it stays as it is.
        in_channels, patch_size: of the window.
        dtype: the type that convolutions compute in.
        features: whether only the features before the head are computed.
    """
    played = copy.deepcopy(network).to("meta").eval()
    window = torch.empty((1, in_channels, *patch_size), device="meta")
    forward: Any = cast(Any, played).features if features else played
    state, reorder = [*played.parameters(), *played.buffers()], _REORDER.get(dtype, _REORDER_REDUCED)
    with torch.no_grad(), LiveBytes(state, reorder=reorder) as live, Autocast(dtype):
        forward(window)
    return int(live.peak) + window.untyped_storage().nbytes()
