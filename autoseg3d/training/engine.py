"""One training step and one validation batch: network, loss, optimiser and averaged weights together."""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from autoseg3d.losses import DeepSupervisionLoss, class_counts
from autoseg3d.networks import build
from autoseg3d.training.compiling import Compiled
from autoseg3d.training.parts import Part, Whole
from autoseg3d.training.ranks import Ranks
from planners.labels import LabelTable
from planners.parts import patches_at_once
from planners.plan import Plan, TrainingPlan

# Averaged weights follow quickly at first, or they would remember the random start: decay min(d, (1 + n) / (10 + n)).
_AVERAGE_DELAY = 9
# float16 gradients are scaled into its range: halved where one overflows, doubled after as many good steps (torch's GradScaler's rule).
_FIRST_SCALE, _SCALE_STREAK = 2.0**16, 2000
_LOWERED = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepResult:
    """One training step: its loss and gradient norm before clipping, None each where not finite (the step was skipped).

    The two numbers may still be on their way from a GPU; whoever asks for them waits.
    """

    numbers: Tensor
    arrived: torch.cuda.Event | None = None
    scaled: bool = False

    @property
    def loss(self) -> float | None:
        """The loss of the whole batch."""
        return self._number(0)

    @property
    def gradient_norm(self) -> float | None:
        """The norm of all gradients."""
        return self._number(1)

    @property
    def skipped(self) -> bool:
        """Whether the weights stayed as they were."""
        return self.loss is None or self.gradient_norm is None

    @property
    def rescaled(self) -> bool:
        """Whether it was skipped only because float16's scale was too large, as happens now and then in a healthy run."""
        return self.scaled and self.loss is not None and self.skipped

    def _number(self, index: int) -> float | None:
        if self.arrived is not None:
            self.arrived.synchronize()
        return _finite(float(self.numbers[index]))


@dataclass
class Shares:
    """Seconds spent per part of the loop. On a GPU, which computes behind the program's back, only sums are true."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, part: str, since: float) -> float:
        """Adds the time since `since` to a part; returns the time now."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - since
        return now


class Engine:
    """A network in training.

    A batch is worked on in parts of `part` samples, on a CPU as few at once as are no slower (`planners.parts`), and every process
    of several has its own share of each batch. Neither changes a step beyond rounding: gradients add up to those of the whole batch, Dice
    over the batch included, for which the sums of all parts are found in a forward pass of their own.

    Args:
        plan: the plan; its labels and configuration make network and loss.
        configuration: name of the configuration.
        training: the recipe, wishes put in.
        device, precision: where the network runs, in "fp32", "bf16" or "fp16"; loss and optimiser are float32.
        seed: of the first weights.
        ranks: the processes that train this network together.
    """

    def __init__(
        self,
        plan: Plan,
        configuration: str,
        training: TrainingPlan,
        *,
        device: torch.device,
        precision: str,
        seed: int,
        ranks: Ranks | None = None,
    ) -> None:
        chosen = plan.configurations[configuration]
        self.device, self.training, self.labels = device, training, plan.labels
        self.ranks = ranks or Ranks()
        self.batch_size = chosen.batch_size
        self.share = len(range(self.ranks.rank, chosen.batch_size, self.ranks.count))
        self.lowered = _LOWERED.get(precision)
        self.network = build(chosen.network, plan.in_channels(configuration), plan.labels.num_classes, seed=seed).to(device)
        self.compiled = Compiled(self.network) if device.type == "cuda" else None
        outputs = len(chosen.network.stages) - 1 if chosen.network.deep_supervision else 1
        self.loss = DeepSupervisionLoss(plan.labels, batch_dice=chosen.batch_dice, num_outputs=outputs)
        coupled = self.loss.sums_over_batch
        self.part = patches_at_once(self.share, chosen.patch_size, device=device.type, coupled=coupled)
        self._whole = Whole(self.loss, chosen.batch_size, self.ranks)
        self.optimizer = _optimizer(self.network, training)
        self.average = _frozen_copy(self.network) if training.ema_decay > 0 else None
        self.scale = torch.tensor([_FIRST_SCALE, 0.0], device=device) if self.lowered is torch.float16 else None
        self.best: dict[str, Tensor] = {}
        self.shares = Shares()
        self._last_part, self._underway = True, list[Any]()
        if self.ranks.count > 1:
            for parameter in self.network.parameters():
                parameter.register_post_accumulate_grad_hook(self._send)  # type: ignore[no-untyped-call]

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and packaged: averaged weights where the recipe keeps them."""
        return self.network if self.average is None else self.average

    def step(self, images: Tensor, labels: Tensor, *, rate: float, steps: int) -> StepResult:
        """Trains on this process's share of a batch at this learning rate; `steps` counts the steps taken before.

        Nothing here waits for a GPU: whether the step counts is decided where the gradients are.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.gradients(images, labels)
        now = time.perf_counter()
        self._unscale()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.training.gradient_clip)
        bad = ~(loss.isfinite() & norm.isfinite())
        self._follow(bad, steps)
        result = _told(torch.stack((loss, norm)), scaled=self.scale is not None)
        self.shares.add("optimizer", now)
        return result

    def gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch, gradients left in the network: images (B, C, Z, Y, X), value indices (B, Z, Y, X)."""
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        self._underway.clear()
        parts = self._parts(images, labels)
        forward = functools.partial(self._forward, self.compiled or self.network)
        combine = self._whole.combining(forward, parts)
        losses = []
        for number, (x, y) in enumerate(parts, start=1):
            self._last_part = number == len(parts)
            now = time.perf_counter()
            outputs = forward(x)
            now = self.shares.add("forward", now)
            loss = self.loss(outputs, y, combine(len(x)))
            now = self.shares.add("loss", now)
            (loss if self.scale is None else loss * self.scale[0]).backward()
            losses.append(loss.detach())
            self.shares.add("backward", now)
        for work in self._underway:
            work.wait()
        return self.ranks.sum(torch.stack(losses).sum())

    @torch.no_grad()
    def evaluate(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of one batch, like the training loss, and its counts: (foreground classes, 3) TP, FP, FN."""
        network = self.evaluated
        # All outputs enter the training loss; training mode gives them and is safe unless a layer behaves differently.
        network.train(not _has_moods(network))
        parts = self._parts(images, labels)
        forward = functools.partial(self._forward, network)
        combine = self._whole.combining(forward, parts)
        losses, counts = [], []
        for x, y in parts:
            outputs = forward(x)
            losses.append(self.loss(outputs, y, combine(len(x))))
            counts.append(class_counts(outputs[0], y, self.labels))
        return self.ranks.sum(torch.stack(losses).sum()), self.ranks.sum(torch.stack(counts).sum(0))

    @contextlib.contextmanager
    def in_float32(self) -> Iterator[None]:
        """Lets the network compute in float32 for the length of the block."""
        lowered, self.lowered = self.lowered, None
        try:
            yield
        finally:
            self.lowered = lowered

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Finest logits (B, K, Z, Y, X) float32 on the CPU, of images (B, C, Z, Y, X) and the weights that are validated."""
        network = self.evaluated.eval()
        parts = torch.split(images, self.part)
        return torch.cat([self._forward(network, part.to(self.device))[0].float().cpu() for part in parts])

    def weights(self, kind: str) -> dict[str, Tensor]:
        """Weights by name, on the CPU, float32: "final" of the network, "averaged", or the "best" seen."""
        if kind == "best":
            return dict(self.best)
        module = self.network if kind == "final" else self.evaluated
        return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}

    def remember_best(self) -> None:
        """Keeps a copy of the weights that were validated last."""
        self.best = self.weights("averaged")

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes while training, by name, for a saved state."""
        found = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        if self.average is not None:
            found |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"optimizer.{name}:{slot}"] = value
        if self.scale is not None:
            found["scale.fp16"] = self.scale
        return found | {f"best.{name}": tensor for name, tensor in self.best.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `tensors` gave. Raises RuntimeError where the names are those of another network."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}, "best": {}, "scale": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if part in parts:
                parts[part][rest] = tensor
        self.network.load_state_dict(parts["network"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        self.best = parts["best"]
        parameters = dict(self.network.named_parameters())
        self.optimizer.state.clear()
        for name, tensor in parts["optimizer"].items():
            parameter, _, slot = name.rpartition(":")
            # The count of steps stays where the optimiser keeps it; all else lies beside its parameter.
            self.optimizer.state[parameters[parameter]][slot] = tensor.to(self.device)
        if self.scale is not None and parts["scale"]:
            self.scale.copy_(parts["scale"]["fp16"])

    def _follow(self, bad: Tensor, steps: int) -> None:
        """Optimiser and averaged weights take the step, unless it is `bad`."""
        if self.optimizer.defaults["fused"]:
            # What torch's GradScaler tells them: fused optimisers leave everything as it is where this is 1.
            self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif not bad:
            self.optimizer.step()
        if self.average is not None:
            decay = min(self.training.ema_decay, (1 + steps) / (1 + _AVERAGE_DELAY + steps))
            weight = torch.where(bad, 0.0, 1 - decay)
            with torch.no_grad():
                for mean, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                    mean.lerp_(new, weight)
                for buffer, newer in zip(self.average.buffers(), self.network.buffers(), strict=True):
                    buffer.copy_(newer)
        if self.scale is not None:
            scale, streak = self.scale
            grown = streak + 1 >= _SCALE_STREAK
            self.scale = torch.stack(
                (scale * torch.where(bad, 0.5, torch.where(grown, 2.0, 1.0)), torch.where(bad | grown, 0.0, streak + 1))
            )

    def _unscale(self) -> None:
        if self.scale is not None:
            for parameter in self.network.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(self.scale[0])

    def _parts(self, images: Tensor, labels: Tensor) -> Sequence[Part]:
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        return list(zip(torch.split(images, self.part), torch.split(labels, self.part), strict=True))

    def _forward(self, network: nn.Module | Compiled, images: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(self.device.type, dtype=self.lowered or torch.bfloat16, enabled=self.lowered is not None):
            return cast(tuple[Tensor, ...], network(images))

    def _send(self, parameter: Tensor) -> None:
        """Lets a finished gradient be summed over all processes while the others are still computed."""
        if self._last_part:
            self._underway.append(dist.all_reduce(parameter.grad, async_op=True))


def _optimizer(network: nn.Module, training: TrainingPlan) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW over all parameters; the rate is set before every step."""
    # Fused kernels read each tensor once; elsewhere (MPS in older torch) the plain loop is used.
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    if training.optimizer == "sgd":
        made = torch.optim.SGD(
            network.parameters(),
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            nesterov=training.momentum > 0,
            fused=fused,
        )
        # Left to itself a fused SGD takes the memory of its first momentum unset, which would stay so where that step is skipped.
        for parameter in network.parameters() if training.momentum > 0 else ():
            made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return made
    return torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=fused)


def _frozen_copy(network: nn.Module) -> nn.Module:
    twin = copy.deepcopy(network)
    return twin.requires_grad_(False)


def _told(numbers: Tensor, *, scaled: bool) -> StepResult:
    """Numbers as a result; those of a GPU are sent off at once and read when they are asked for."""
    if numbers.device.type != "cuda":
        return StepResult(numbers, scaled=scaled)
    sent, arrived = numbers.to("cpu", non_blocking=True), torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return StepResult(sent, arrived, scaled)


def _finite(value: float) -> float | None:
    return value if value - value == 0 else None


def _has_moods(network: nn.Module) -> bool:
    """Whether a layer computes differently while training: dropout, or statistics that it gathers."""
    layers = list(network.modules())
    return any(isinstance(layer, nn.modules.dropout._DropoutNd) or getattr(layer, "track_running_stats", False) for layer in layers)


def pseudo_dice(counts: Tensor, labels: LabelTable) -> dict[str, float | None]:
    """Dice per label of summed (classes, 3) counts TP, FP, FN; None where no patch shows a label.

    nnU-Net gives such a label 0 where a single voxel of it was predicted, which in short epochs of few patches says nothing.
    """
    found = {}
    for label, (tp, fp, fn) in zip(labels.labels, counts.tolist(), strict=True):
        found[label.name] = 2 * tp / (2 * tp + fp + fn) if tp + fn else None
    return found


def shown_voxels(counts: Tensor, labels: LabelTable) -> dict[str, int]:
    """How many voxels of each label the patches of summed (classes, 3) counts TP, FP, FN show."""
    return {label.name: tp + fn for label, (tp, _, fn) in zip(labels.labels, counts.tolist(), strict=True)}
