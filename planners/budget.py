"""Budget: what a plan may cost, in memory and in time, and the machine it is meant for."""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import Field

from planners.contract import Contract, Triple
from planners.explain import bytes_text
from planners.fingerprint import Fingerprint
from planners.plan import NetworkPlan, Plan
from planners.speed import Speed, Work

MIB = 1024**2
GIB = 1024**3
LEAST_MEMORY = 64 * MIB


class Budget(Contract):
    """What the planner may spend.

    memory_bytes      memory for one training step that the user grants: of the GPU, or of this process on a CPU; None
                      where the user named none, so that each planner's own default stands (see `memory_for`)
    free_bytes        memory the device has free, as measured; None where nobody looked
    device            the kind of device the plan will train on
    seconds           wall-clock time of the training loop per fold; None where the default schedule stands
    speed             how fast the device trains, as measured; None where nobody measured
    workers           processes that may run beside the training loop
    """

    memory_bytes: int | None = Field(default=None, ge=1)
    free_bytes: int | None = Field(default=None, ge=1)
    device: Literal["cpu", "cuda", "mps"] = "cuda"
    seconds: float | None = Field(default=None, gt=0)
    speed: Speed | None = None
    workers: int = Field(default=1, ge=0)

    def memory_for(self, default: int, *, use_free: bool = False) -> int:
        """Bytes to plan for: what the user granted, else (with `use_free`) what the device has free, else `default`.

        The presets fix their own targets (nnunet and resenc-m 8 GiB, resenc-l 24, resenc-xl 40), as their published
        plans depend on them; our own planners look at the machine. Raises PlanningError below `LEAST_MEMORY`, which
        is less than a training process takes before its first layer.
        """
        if self.memory_bytes is not None:
            memory = self.memory_bytes
        else:
            memory = self.free_bytes if use_free and self.free_bytes is not None else default
        if memory < LEAST_MEMORY:
            raise PlanningError(
                "memory_bytes",
                bytes_text(memory),
                f"no network can be trained in less than {LEAST_MEMORY / MIB:.0f} MiB",
                "Grant more with --memory, for instance --memory 8GB",
            )
        return memory


class NetworkCost(Contract):
    """What one network costs for one patch size and batch size.

    forward_flops     floating-point operations of one forward pass of the batch (a multiply-add counts two)
    kept_bytes        what the backward pass keeps of the forward pass
    training_bytes    forecast peak of a whole training step: weights, gradients, optimiser, kept, loss, workspace
    inference_bytes   forecast peak of a forward pass without gradients
    step_flops        of a whole training step as it is computed, with channels filled up (`planners.speed.filled`)
    moved_bytes       what a whole training step reads and writes
    """

    parameters: int
    forward_flops: int
    kept_bytes: int
    training_bytes: int
    inference_bytes: int
    step_flops: int
    moved_bytes: int

    @property
    def work(self) -> Work:
        """One training step's."""
        return Work(flops=float(self.step_flops), moved_bytes=float(self.moved_bytes))


class CostFunction(Protocol):
    """Tells a planner what a network costs; planners stay free of torch by being given one."""

    def __call__(
        self, network: NetworkPlan, *, patch_size: Triple, batch_size: int, in_channels: int, num_classes: int, device: str
    ) -> NetworkCost: ...


class Planner(Protocol):
    """A planner: a pure function that reads like a paper's method section. Raises PlanningError."""

    def __call__(self, fingerprint: Fingerprint, budget: Budget, cost: CostFunction) -> Plan: ...


class PlanningError(ValueError):
    """No plan can be made: names the `field` that stands in the way, its value and a remedy."""

    def __init__(self, field: str, got: object, reason: str, remedy: str) -> None:
        super().__init__(f"{field} = {got}: {reason}. {remedy}")
        self.field, self.got, self.reason, self.remedy = field, got, reason, remedy
