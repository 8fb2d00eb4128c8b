"""A network compiled by OpenVINO for the processor at hand: the same windows, the same sums, another runtime for the layers.

Only the features are computed there. The linear head stays torch's, in float32, as for torch's own bfloat16 networks.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn

from autoseg3d.errors import ModelError, UsageError
from autoseg3d.networks.inference import Float32Head
from autoseg3d.networks.portable import FeatureGraph, portable
from planners.contract import Triple


def need_openvino() -> None:
    """Raises UsageError naming the extra where OpenVINO is not installed."""
    if importlib.util.find_spec("openvino") is None:
        raise UsageError(
            "OpenVINO is not installed",
            code="E_EXTRA",
            field="backend",
            got="openvino",
            remedy='Install it with: pip install "autoseg3d[openvino]", or predict with --backend torch',
        )


class OpenVinoNetwork(nn.Module):
    """A network whose features OpenVINO computes on the CPU; meets the contract of a network in evaluation mode.

    Args:
        network: meets the network contract; copied, not changed.
        dtype: float32, or bfloat16 where the processor has it.
        channels: of the input.
        patch: the only size (z, y, x) that windows may have.

    Raises UsageError where OpenVINO is missing, ModelError where it cannot follow the network.
    """

    def __init__(self, network: nn.Module, *, dtype: torch.dtype, channels: int, patch: Triple) -> None:
        super().__init__()
        need_openvino()
        self.head = Float32Head(copy.deepcopy(cast(nn.Module, network.head)).requires_grad_(False).cpu())
        self.stride_zyx = cast(Triple, network.stride_zyx)
        self._shape = (1, channels, *patch)
        try:
            self._compiled = _compile(FeatureGraph(portable(network)).eval(), self._shape, dtype)
        except Exception as error:  # its converter raises many kinds for what it cannot follow
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            remedy = "Predict with --backend torch"
            raise ModelError(f"OpenVINO cannot take this network: {reason}", code="E_EXPORT", remedy=remedy) from error

    def features(self, x: Tensor) -> Tensor:
        """(B, C, *patch) to the features before the head, float32; one window at a time."""
        found = [torch.from_numpy(self._compiled(sample.float().contiguous().numpy())[0].copy()) for sample in torch.split(x, 1)]
        return found[0] if len(found) == 1 else torch.cat(found)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """The finest logits, float32, as the only element of a tuple."""
        return (self.head(self.features(x)),)


def _compile(graph: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    import openvino

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.export.export(graph, (torch.zeros(shape),))
        model = openvino.convert_model(traced)
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return openvino.Core().compile_model(model, "CPU", settings)
