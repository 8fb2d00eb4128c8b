"""One training step and one validation batch: network, loss, optimiser and averaged weights together."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autoseg3d.losses import DeepSupervisionLoss, class_counts
from autoseg3d.networks import build
from planners.labels import LabelTable
from planners.plan import Plan, TrainingPlan

# Averaged weights follow quickly at first, or they would remember the random start: decay min(d, (1 + n) / (10 + n)).
_AVERAGE_DELAY = 9


@dataclass(frozen=True)
class StepResult:
    """One training step: its loss and gradient norm before clipping, None each where not finite (the step was skipped)."""

    loss: float | None
    gradient_norm: float | None

    @property
    def skipped(self) -> bool:
        """Whether the weights stayed as they were."""
        return self.loss is None or self.gradient_norm is None


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

    Args:
        plan: the plan; its labels and configuration make network and loss.
        configuration: name of the configuration.
        training: the recipe, wishes put in.
        device, bfloat16: where and in which precision the network runs; loss and optimiser are float32.
        seed: of the first weights.
    """

    def __init__(self, plan: Plan, configuration: str, training: TrainingPlan, *, device: torch.device, bfloat16: bool, seed: int) -> None:
        chosen = plan.configurations[configuration]
        self.device, self.bfloat16, self.training, self.labels = device, bfloat16, training, plan.labels
        self.batch_size = chosen.batch_size
        self.network = build(chosen.network, plan.in_channels(configuration), plan.labels.num_classes, seed=seed).to(device)
        outputs = len(chosen.network.stages) - 1 if chosen.network.deep_supervision else 1
        self.loss = DeepSupervisionLoss(plan.labels, batch_dice=chosen.batch_dice, num_outputs=outputs)
        self.optimizer = _optimizer(self.network, training)
        self.average = _frozen_copy(self.network) if training.ema_decay > 0 else None
        self.best: dict[str, Tensor] = {}
        self.shares = Shares()

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and packaged: averaged weights where the recipe keeps them."""
        return self.network if self.average is None else self.average

    def step(self, images: Tensor, labels: Tensor, *, rate: float, averaged: int) -> StepResult:
        """Trains on one batch at this learning rate; `averaged` counts the updates of the averaged weights so far."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.gradients(images, labels)
        now = time.perf_counter()
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.training.gradient_clip))
        result = StepResult(_finite(loss), _finite(norm))
        if not result.skipped:
            self.optimizer.step()
            self._update_average(averaged)
        self.shares.add("optimizer", now)
        return result

    def gradients(self, images: Tensor, labels: Tensor) -> float:
        """The loss of one batch, gradients left in the network: images (B, C, Z, Y, X), value indices (B, Z, Y, X)."""
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        now = time.perf_counter()
        images, labels = self._moved(images, labels)
        with self._precision():
            outputs = self.network(images)
        now = self.shares.add("forward", now)
        loss = self.loss(outputs, labels)
        now = self.shares.add("loss", now)
        loss.backward()
        value = float(loss.detach())
        self.shares.add("backward", now)
        return value

    @torch.no_grad()
    def evaluate(self, images: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Loss of one batch, like the training loss, and its counts: (foreground classes, 3) TP, FP, FN on the CPU."""
        network = self.evaluated
        # All outputs enter the training loss; training mode gives them and is safe unless a layer behaves differently.
        network.train(not _has_moods(network))
        images, labels = self._moved(images, labels)
        with self._precision():
            outputs = network(images)
        return float(self.loss(outputs, labels)), class_counts(outputs[0], labels, self.labels).cpu()

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
        return found | {f"best.{name}": tensor for name, tensor in self.best.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `tensors` gave. Raises RuntimeError where the names are those of another network."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}, "best": {}}
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

    def _update_average(self, updates: int) -> None:
        if self.average is None:
            return
        decay = min(self.training.ema_decay, (1 + updates) / (1 + _AVERAGE_DELAY + updates))
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(new, 1 - decay)
            for buffer, newer in zip(self.average.buffers(), self.network.buffers(), strict=True):
                buffer.copy_(newer)

    def _moved(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)


def _optimizer(network: nn.Module, training: TrainingPlan) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW over all parameters; the rate is set before every step."""
    # Fused kernels read each tensor once; elsewhere (MPS in older torch) the plain loop is used.
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    if training.optimizer == "sgd":
        nesterov = training.momentum > 0
        return torch.optim.SGD(
            network.parameters(),
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            nesterov=nesterov,
            fused=fused,
        )
    return torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=fused)


def _frozen_copy(network: nn.Module) -> nn.Module:
    twin = copy.deepcopy(network)
    return twin.requires_grad_(False)


def _finite(value: float) -> float | None:
    return value if value - value == 0 else None


def _has_moods(network: nn.Module) -> bool:
    """Whether a layer computes differently while training: dropout, or statistics that it gathers."""
    layers = list(network.modules())
    return any(isinstance(layer, nn.modules.dropout._DropoutNd) or getattr(layer, "track_running_stats", False) for layer in layers)


def pseudo_dice(counts: Tensor, labels: LabelTable) -> dict[str, float | None]:
    """Dice per label of summed (classes, 3) counts TP, FP, FN; None where a label was neither there nor predicted."""
    found = {}
    for label, (tp, fp, fn) in zip(labels.labels, counts.tolist(), strict=True):
        found[label.name] = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None
    return found
