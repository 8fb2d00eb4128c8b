"""Devices: which precision is fast there is seen, not read off the processor's name."""

import time

import torch

from autoseg3d.devices import fast_bfloat16


def convolution_seconds(dtype: torch.dtype) -> float:
    """The best of three forward passes of a large convolution."""
    layer, image = torch.nn.Conv3d(32, 32, 3, padding=1).to(dtype), torch.ones(2, 32, 32, 32, 32, dtype=dtype)
    times = []
    with torch.no_grad():
        for _ in range(4):
            began = time.perf_counter()
            layer(image)
            times.append(time.perf_counter() - began)
    return min(times[1:])


def test_bfloat16_is_taken_where_it_gains_and_only_there() -> None:
    capabilities = torch.cpu.get_capabilities()
    native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    ratio = convolution_seconds(torch.bfloat16) / convolution_seconds(torch.float32)
    assert native or not fast_bfloat16("cpu")
    # Between the two the verdict may be either: the machine may be busy.
    assert not (native and ratio < 0.5) or fast_bfloat16("cpu")
    assert ratio < 1.25 or not fast_bfloat16("cpu")


def test_other_devices_have_none() -> None:
    assert not fast_bfloat16("mps")
    if not torch.cuda.is_available():
        assert not fast_bfloat16("cuda")
