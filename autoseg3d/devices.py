"""The device to compute on: its choice, its free memory, and the precisions it is fast in. Used by everything with torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psutil
import torch

from autoseg3d.errors import UsageError

# A convolution like those of a network's first stages, and the share of float32's time that bfloat16 must stay below.
# Seen: 0.35 to 0.5 on AMD's Zen 4 and 5, 1.5 to 1.8 on an Intel Xeon whose matrix unit the virtual machine hides.
_CHANNELS, _EDGE, _TURNS = 32, 16, 5
_WORTHWHILE = 0.8


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
    """What networks are trained in there: "bf16" where that is fast, "fp16" on older CUDA devices, else "fp32"."""
    if fast_bfloat16(device.type):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


@cache
def fast_bfloat16(device_type: str) -> bool:
    """Whether convolutions gain by bfloat16 there: CUDA from Ampere on, and CPUs that have it where a trial shows it.

    That a processor has the instructions says little: some compute them at half the speed of float32.
    """
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
    if device_type == "cpu":
        # Told since torch 2.12; an older torch computes in float32, which may be slower and is never wrong.
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
        return native and _bfloat16_share_of_time() < _WORTHWHILE
    return False


def _bfloat16_share_of_time() -> float:
    """Time of a convolution's forward and backward pass on this CPU in bfloat16, as a share of float32's; a tenth of a second."""
    exact, reduced = (_convolution_pass(dtype) for dtype in (torch.float32, torch.bfloat16))
    # By turns, so that what disturbs one for a while does not spoil it alone.
    times = [(exact(), reduced()) for _ in range(_TURNS)]
    return min(bf16 for _, bf16 in times[1:]) / min(fp32 for fp32, _ in times[1:])


def _convolution_pass(dtype: torch.dtype) -> Callable[[], float]:
    """A function that passes a convolution forwards and backwards once and returns the seconds it took."""
    weight = torch.ones(_CHANNELS, _CHANNELS, 3, 3, 3, dtype=dtype, requires_grad=True)
    # torch has a slow kernel of its own for single samples in float32.
    images = torch.ones(2, _CHANNELS, _EDGE, _EDGE, _EDGE, dtype=dtype, requires_grad=True)

    def timed() -> float:
        began = time.perf_counter()
        with torch.enable_grad():
            torch.autograd.grad(torch.nn.functional.conv3d(images, weight, padding=1).sum(), (images, weight))
        return time.perf_counter() - began

    return timed
