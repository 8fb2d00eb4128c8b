"""Speed: what a training step takes on a machine, from its arithmetic and the memory it moves.

A roofline in its simplest form (Williams, Waterman and Patterson 2009): operations at the rate of the arithmetic units,
plus bytes at the rate of the memory, plus what a step costs however small it is. Wide networks are bound by the first,
narrow ones and thick slices by the second, so that no single rate serves both. How well this holds: docs/benchmarks.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from planners.contract import Contract

# Convolutions compute this many channels at once, whether the network has them or not (AVX-512 in float32; tensor cores take 8).
LANES = 16
# An image's own few channels are read as they are.
_FEW = 4


@dataclass(frozen=True)
class Work:
    """One training step: floating-point operations with channels filled up (a multiply-add counts two), and bytes read and written."""

    flops: float
    moved_bytes: float


def filled(inputs: int, outputs: int) -> int:
    """Products per tap that a convolution from `inputs` to `outputs` channels really computes."""
    return (inputs if inputs <= _FEW else _up(inputs)) * _up(outputs)


def _up(channels: int) -> int:
    return -(-channels // LANES) * LANES


class Speed(Contract):
    """How fast a device trains.

    flops_per_second  of convolutions, where nothing else holds them up
    bytes_per_second  at which results are read and written
    overhead_seconds  of every step: launching its kernels
    source            where the numbers come from, in words
    """

    flops_per_second: float = Field(gt=0)
    bytes_per_second: float = Field(gt=0)
    overhead_seconds: float = Field(default=0.0, ge=0)
    source: str = "measured on this machine"

    def step_seconds(self, work: Work) -> float:
        """Wall-clock seconds of one training step, the optimiser's included, validation not."""
        return work.flops / self.flops_per_second + work.moved_bytes / self.bytes_per_second + self.overhead_seconds

    def __str__(self) -> str:
        return f"{self.flops_per_second:.3g} FLOP/s and {self.bytes_per_second:.3g} B/s, {self.source}"
