"""What a person may ask of a training run, and what comes back of it. Free of torch, so that the command line starts fast."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from autoseg3d.errors import UsageError
from planners.contract import Contract
from planners.plan import TrainingPlan

Mode = Literal["fresh", "resume", "restart"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Augmentation = Literal["torch", "batchgenerators"]
Freeze = Literal["none", "encoder"]
Chosen = Literal["final", "averaged", "best"]

# Who watches a training is called with events; who follows long work with (what, done, total).
Watch = Callable[[dict[str, Any]], None]
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Wishes for one fold; None leaves a number to the plan or to the machine.

    epochs              epochs of a run that counts its steps
    iterations          steps per epoch
    seconds             wall-clock time of the training loop, online validation included; the schedule is fitted to it
    device              "auto", "cpu", "cuda", "cuda:1", "mps"
    precision           "auto" computes in bfloat16 where the device does so natively, in float16 on older CUDA devices
    save_every_seconds  time between two saved states
    mode                "fresh" refuses a fold that was begun, "resume" continues it, "restart" throws it away
    workers             processes that prepare batches ahead; 0 uses a thread of this process
    threads             torch threads of this process
    augmentation        "torch" is our own, "batchgenerators" that library's pipeline, as a reference
    seed                instead of the plan's
    validate_cases      whether the held-out cases are predicted and scored at the end
    learning_rate       the peak, instead of the plan's
    until_converged     train at a constant rate until more promises nothing; epochs or seconds are then only the limit
    start_from          a model whose weights training starts from: a package, a run or a .a3d file
    freeze              what keeps the weights it started with
    validation_probabilities   also write the held-out cases' probabilities, validation/<case>.npz
    pictures            draw an example of the current predictions from time to time
    tensorboard         write event files for TensorBoard
    """

    epochs: int | None = None
    iterations: int | None = None
    seconds: float | None = None
    device: str = "auto"
    precision: Precision = "auto"
    save_every_seconds: float = 300.0
    mode: Mode = "fresh"
    workers: int | None = None
    threads: int | None = None
    augmentation: Augmentation = "torch"
    seed: int | None = None
    validate_cases: bool = True
    learning_rate: float | None = None
    until_converged: bool = False
    start_from: Path | None = None
    freeze: Freeze | None = None
    validation_probabilities: bool = False
    pictures: bool = True
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "iterations", "seconds", "save_every_seconds", "threads", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UsageError("must be more than zero", field=name, got=value)
        for name in ("workers", "seed"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError("must not be negative", field=name, got=value)
        for name, kind in (("mode", Mode), ("precision", Precision), ("augmentation", Augmentation), ("freeze", Freeze)):
            allowed = get_args(kind)
            if getattr(self, name) not in allowed and not (name == "freeze" and self.freeze is None):
                raise UsageError("unknown choice", field=name, wanted=", ".join(allowed), got=getattr(self, name))


def recipe(training: TrainingPlan, options: TrainOptions, *, start_from: str | None = None) -> TrainingPlan:
    """The plan's recipe with the wishes put in; `start_from` is the SHA-256 of the model that `options` name.

    A wish for epochs or iterations alone asks for a run that counts its steps, so it lifts a time budget of the plan.
    """
    seconds = options.seconds
    if seconds is None and options.epochs is None and options.iterations is None:
        seconds = training.seconds
    names = ("epochs", "iterations", "seed", "learning_rate", "freeze")
    wishes: dict[str, object] = {name: getattr(options, name) for name in names}
    wishes |= {"start_from": start_from, "schedule": "plateau" if options.until_converged else None}
    update = {name: value for name, value in wishes.items() if value is not None}
    made = training.model_copy(update={**update, "seconds": seconds})
    if made.freeze == "encoder" and made.start_from is None:
        remedy = "Name the model to start from with --from, or leave --freeze away"
        raise UsageError("there is nothing to freeze: the encoder has learnt nothing yet", field="freeze", remedy=remedy)
    return made


class FoldResult(Contract):
    """A finished fold, as written to result.json in its folder.

    fold        "0" … "4" or "full"
    chosen      which weights went into the model package
    dice        mean Dice per label over the held-out cases, None where a label stands in none of them; empty for "full"
    mean_dice   mean over labels of `dice`
    cases       held-out cases scored
    steps, epochs   of the training loop
    seconds     wall-clock time of the training loop
    skipped     steps left out because loss or gradient were not finite
    attempts    1, or 2 where the fold had to begin again with a lower learning rate
    training    the recipe, wishes put in
    weights_sha256  of the weights that were packaged
    started_from    the model whose weights it started from, in words
    forecast_seconds, real_seconds   of training and whole-case validation, as told before the start and as it came; a
                    fold that was interrupted while it validated counts only the last validation
    """

    configuration: str
    fold: str
    chosen: Chosen
    dice: dict[str, float | None]
    mean_dice: float | None
    cases: int
    steps: int
    epochs: int
    seconds: float
    skipped: int
    attempts: int
    training: TrainingPlan
    weights_sha256: str
    started_from: str | None = None
    forecast_seconds: float | None = None
    real_seconds: float | None = None
