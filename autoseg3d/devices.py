"""The device to compute on: its choice, its free memory, and the precisions it is fast in. Used by everything with torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import psutil
import torch

from autoseg3d.errors import UsageError


def choose_device(name: str = "auto") -> torch.device:
    """The torch device for "auto", "cpu", "cuda", "cuda:1", "mps"; auto prefers CUDA, then MPS, then the CPU.

    Raises UsageError where the named device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError("unknown device", field="device", wanted="auto, cpu, cuda, cuda:N or mps", got=name) from error
    missing = (device.type == "cuda" and not torch.cuda.is_available()) or (device.type == "mps" and not torch.backends.mps.is_available())
    if missing:
        raise UsageError("this device is not on this machine", field="device", got=name, remedy="Use --device auto or --device cpu")
    return device


def device_names(name: str = "auto") -> tuple[str, ...]:
    """The devices that work may be spread over: every GPU where "auto" or "cuda" leaves the choice, else the one named."""
    count = torch.cuda.device_count() if name in ("auto", "cuda") and torch.cuda.is_available() else 0
    return tuple(f"cuda:{i}" for i in range(count)) if count > 1 else (name,)


def free_memory_bytes(device: torch.device) -> int:
    """Memory that is free now: of the GPU, or of this machine within the limit of its control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = int(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        return min(available, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):
        return available


def training_precision(device: torch.device) -> str:
    """What networks are trained in there: "bf16" where that is native, "fp16" on older CUDA devices, else "fp32"."""
    if fast_bfloat16(device.type):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


@cache
def fast_bfloat16(device_type: str) -> bool:
    """Whether bfloat16 arithmetic is native there: CPUs with AVX512-BF16 or AMX, CUDA from Ampere on."""
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
    if device_type == "cpu":
        # Told since torch 2.12; an older torch computes in float32, which is slower and never wrong.
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False
