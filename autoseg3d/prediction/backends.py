"""What computes the layers of a network: torch itself, or OpenVINO on a processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from autoseg3d.devices import choose_device
from autoseg3d.errors import UsageError
from autoseg3d.prediction.openvino_network import OpenVinoNetwork, need_openvino
from autoseg3d.prediction.precision import ready
from planners.contract import Triple

Backend = Literal["torch", "openvino"]


def device_for(backend: Backend, wanted: torch.device | str) -> torch.device:
    """The device to compute on. Raises UsageError where it is not there, or the backend is missing or knows no such device."""
    if backend == "openvino":
        need_openvino()
        wanted = "cpu" if wanted == "auto" else wanted
    device = choose_device(wanted) if isinstance(wanted, str) else wanted
    if backend == "openvino" and device.type != "cpu":
        remedy = "Use --device cpu, or --backend torch"
        raise UsageError("OpenVINO computes on the processor only", field="backend", wanted="cpu", got=str(device), remedy=remedy)
    return device


def ready_networks(
    networks: Sequence[nn.Module], *, backend: Backend, dtype: torch.dtype, device: torch.device, channels: int, patch: Triple
) -> tuple[nn.Module, ...]:
    """Copies of networks made ready to predict windows of (channels, *patch); the originals stay as they are."""
    if backend == "torch":
        return ready(networks, dtype, device)
    return tuple(OpenVinoNetwork(network, dtype=dtype, channels=channels, patch=patch) for network in networks)
