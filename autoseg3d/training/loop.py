"""The training loop: steps, epochs, online validation, and when to save, to warn and to stop."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor

from autoseg3d.errors import StoppedError, StorageError
from autoseg3d.training import log, plateau
from autoseg3d.training.alarms import LabelFacts, dead, new_alarms, uninformed_loss
from autoseg3d.training.curves import Curves
from autoseg3d.training.engine import Engine, Shares, StepResult, pseudo_dice, shown_voxels
from autoseg3d.training.interruption import Interruption
from autoseg3d.training.loading import Batches
from autoseg3d.training.memory import halved, out_of_memory, release
from autoseg3d.training.options import Watch
from autoseg3d.training.ranks import lost_peers
from autoseg3d.training.schedule import learning_rate, position
from autoseg3d.training.state import Progress
from planners.explain import duration_text
from planners.plan import TrainingPlan

# A dead fold begins once more with this share of its learning rate.
RESTART_FACTOR = 0.2
_EMA = 0.9
_SECONDS_BETWEEN_STEP_EVENTS = 1.0


class Observer(Protocol):
    """Somebody who is shown every finished epoch, and must leave everything as it is."""

    def epoch(self, log: Sequence[Mapping[str, Any]], engine: Engine) -> None:
        """An epoch is over: its record is the last of the log."""

    def close(self, log: Sequence[Mapping[str, Any]], engine: Engine) -> None:
        """The loop is over."""


class DeadFoldError(RuntimeError):
    """This attempt will come to nothing; says why. Caught by the fold, which begins once more."""


@dataclass
class Loop:
    """The loop of one attempt.

    engine        network, loss, optimiser
    training      the recipe
    progress      counters, changed in place
    batches, validation   series of training and validation batches, standing where `progress` does
    save          writes the state, given the states of torch's generators
    random, set_random   read and put back the states of torch's generators
    facts         of each label, by its name, for the causes of alarms
    observers     are shown every finished epoch
    """

    engine: Engine
    training: TrainingPlan
    progress: Progress
    batches: Batches
    validation: Batches
    interruption: Interruption
    save: Callable[[dict[str, Tensor]], None]
    random: Callable[[], dict[str, Tensor]]
    set_random: Callable[[Mapping[str, Tensor]], None]
    watch: Watch
    log_file: Path
    curves: Curves
    save_every_seconds: float
    facts: Mapping[str, LabelFacts]
    observers: Sequence[Observer] = ()
    _base: float = field(default=0.0, init=False)
    _now: float = field(default=0.0, init=False)
    _pending: StepResult | None = field(default=None, init=False)
    _last_loss: float | None = field(default=None, init=False)
    _saved: float = field(default=0.0, init=False)
    _told: float = field(default=0.0, init=False)
    _epoch_began: float = field(default=0.0, init=False)
    _epoch_steps: int = field(default=0, init=False)
    _validation_seconds: float = field(default=0.0, init=False)

    @property
    def _uninformed(self) -> float:
        return uninformed_loss(self.engine.labels)

    def run(self, *, began: float) -> None:
        """Trains to the end of the schedule; the clock counts from `began` (time.monotonic()).

        Raises StoppedError after saving where a signal asks to stop or batches fail to come, DeadFoldError where
        nothing is learnt.
        """
        self._base = began - self.progress.elapsed
        self._saved, self._epoch_began = time.monotonic(), self._elapsed()
        generators = self.random()
        try:
            while self._advance_together():
                generators = self.random()
                if time.monotonic() - self._saved >= self.save_every_seconds:
                    self._save(generators)
        except StorageError:
            raise
        except StoppedError:
            # Whatever was under way is given up: weights, counters and generators stand where the last step left them.
            self._save(generators)
            raise
        finally:
            self.progress.elapsed = self._elapsed()

    def _advance_together(self) -> bool:
        """`_advance`, at a time that all processes agree on; StoppedError where another of them has gone."""
        with lost_peers() if self.engine.ranks.count > 1 else contextlib.nullcontext():
            self._agree_on_time()
            return self._advance()

    def _agree_on_time(self) -> None:
        """Counted runs go by their steps, of which all processes have the same number anyway."""
        if self.training.seconds is None:
            self._now = self._elapsed()
        else:
            self._now, self._validation_seconds = self.engine.ranks.leaders(self._elapsed(), self._validation_seconds)

    def _advance(self) -> bool:
        """One step, or the end of an epoch; False where the run is over."""
        p = self.progress
        over = self._over()
        if p.step_in_epoch >= p.iterations or (over and p.step_in_epoch):
            self._end_epoch()
        elif over:
            return False
        else:
            self._step()
        return True

    def _elapsed(self) -> float:
        return time.monotonic() - self._base

    def _position(self) -> float:
        p = self.progress
        if self.training.seconds is None:
            return position(self.training, step=p.step, elapsed=0.0)
        # A second attempt fits its schedule to the time that is left.
        left = self.training.model_copy(update={"seconds": max(self.training.seconds - p.attempt_start, 1e-3)})
        return position(left, step=p.step, elapsed=self._now - p.attempt_start)

    def _over(self) -> bool:
        if self.progress.fall_from is not None and plateau.fallen(self.progress, self._position()) >= 1:
            return True
        if self.training.seconds is None:
            return self.progress.step >= self.training.epochs * self.training.iterations
        # The step after this and the last validation shall still fit.
        ahead = 0.5 * self.progress.step_seconds + (self._validation_seconds if self.progress.step_in_epoch else 0.0)
        return self._position() >= 1 or self._now + ahead >= self.training.seconds

    def _step(self) -> None:
        p, now = self.progress, time.perf_counter()
        images, labels = self.batches.next(self.interruption.check)
        self.engine.shares.add("waiting", now)
        rate = self._rate()
        result = self._train(images, labels, rate)
        if p.step_in_epoch == 0:
            p.first_rate = rate
        p.step += 1
        p.step_in_epoch += 1
        self._epoch_steps += 1
        # A GPU is still at it: what became of this step is asked for when the next one has been handed over.
        if self.engine.device.type == "cuda":
            self._settle()
        self._pending = result
        if self.engine.device.type != "cuda":
            self._settle()
        self._tell_step(self._last_loss)
        if reason := dead(p, [], uninformed=self._uninformed):
            raise DeadFoldError(reason)

    def _rate(self) -> float:
        """The learning rate of the next step."""
        p, t, factor = self.progress, self._position(), RESTART_FACTOR ** (self.progress.attempt - 1)
        if self.training.schedule != "plateau":
            return learning_rate(self.training, t, factor=factor)
        if p.fall_from is None and plateau.must_fall(t):
            plateau.begin_fall(p, t)
            self.watch({"event": "note", "message": "The limit is near: the learning rate falls to zero from here on"})
        return plateau.rate(self.training, p, t, factor=factor)

    def _look_ahead(self, attempt: Sequence[Mapping[str, Any]]) -> None:
        """Lets the rate of a "plateau" run fall once more training promises nothing."""
        p = self.progress
        found = plateau.converged(attempt)
        if found is None or p.fall_from is not None:
            return
        plateau.begin_fall(p, self._position())
        each = (self._elapsed() - p.attempt_start) / p.step
        message = (
            f"Another {duration_text(found.steps * each)} would bring {found} Dice: converged. "
            f"The learning rate falls to zero within {duration_text(plateau.FALL_SHARE * p.step * each)}, then training ends"
        )
        self.watch({"event": "note", "message": message})

    def _train(self, images: Tensor, labels: Tensor, rate: float) -> StepResult:
        """One step. Where memory runs out, the batch is worked on in smaller parts from then on."""
        generators = self.random()
        while True:
            try:
                return self.engine.step(images, labels, rate=rate, steps=self.progress.step)
            except (MemoryError, RuntimeError) as error:
                # Several processes cannot go back alone: the others wait for this one's gradients.
                if not out_of_memory(error) or self.engine.part == 1 or self.engine.ranks.count > 1:
                    raise
            # Outside of the except clause, so that the tensors of the failed step are gone.
            release(self.engine.network)
            self.set_random(generators)
            self.progress.part = self.engine.part = halved(self.engine.part)
            message = f"Memory ran out: batches are worked on in parts of {self.engine.part} from now on; the results stay the same"
            self.watch({"event": "alarm", "message": message})

    def _settle(self) -> None:
        """Counts the step whose result is still out."""
        p, result, self._pending = self.progress, self._pending, None
        if result is None:
            return
        self._last_loss, norm = result.loss, result.gradient_norm
        if self._last_loss is not None and norm is not None:
            p.loss_sum += self._last_loss
            p.norm_sum += norm
            p.counted += 1
            p.bad_in_a_row = 0
            return
        p.bad_in_a_row += 1
        if not result.rescaled:
            p.skipped += 1
            p.total_skipped += 1

    def _tell_step(self, loss: float | None) -> None:
        if time.monotonic() - self._told < _SECONDS_BETWEEN_STEP_EVENTS:
            return
        self._told, p = time.monotonic(), self.progress
        event = {"event": "step", "epoch": p.epoch, "step": p.step, "loss": loss, "position": self._position()}
        self.watch({**event, "elapsed": self._elapsed(), "eta_seconds": self._eta()})

    def _eta(self) -> float:
        p = self.progress
        if self.training.seconds is not None:
            return max(0.0, self.training.seconds - self._elapsed())
        return max(0.0, (self.training.epochs * self.training.iterations - p.step) * (self._elapsed() - p.attempt_start) / max(p.step, 1))

    def _end_epoch(self) -> None:
        """Validates, logs and warns. Nothing changes before the validation is done, so that it may be interrupted."""
        self._settle()
        p, now = self.progress, time.perf_counter()
        trained = self._elapsed() - self._epoch_began
        validation_loss, dice, voxels = self._validate()
        self._validation_seconds = self.engine.shares.add("validation", now) - now
        self._agree_on_time()
        scored = [value for value in dice.values() if value is not None]
        mean = statistics.fmean(scored) if scored else None
        best = self._follow(mean)
        record: dict[str, Any] = {
            "attempt": p.attempt,
            "epoch": p.epoch,
            "step": p.step,
            "position": self._position(),
            "loss": p.loss_sum / p.counted if p.counted else None,
            "validation_loss": validation_loss,
            "dice": dice,
            "voxels": voxels,
            "mean_dice": mean,
            "ema_dice": p.ema,
            "best": best,
            "learning_rate": p.first_rate,
            "gradient_norm": p.norm_sum / p.counted if p.counted else None,
            "skipped": p.skipped,
            "part": self.engine.part,
        }
        attempt = [*(past for past in p.log if past["attempt"] == p.attempt), record]
        record["alarms"] = new_alarms(attempt, self.facts, batch_size=self.engine.batch_size)
        record["timing"] = self._timing(trained)
        if self.training.schedule == "plateau":
            self._look_ahead(attempt)
        self._close_epoch(record)
        if p.attempt == 1 and (reason := dead(p, attempt, uninformed=self._uninformed)):
            raise DeadFoldError(reason)

    def _close_epoch(self, record: dict[str, Any]) -> None:
        p = self.progress
        p.log.append(record)
        p.epoch += 1
        p.validation_batch += p.validation_iterations
        p.step_in_epoch, p.loss_sum, p.norm_sum, p.counted, p.skipped = 0, 0.0, 0.0, 0, 0
        self._epoch_began, self._epoch_steps = self._elapsed(), 0
        self.engine.shares = Shares()
        if self.engine.ranks.leads:
            log.append(self.log_file, record)
            self.curves.update(p.log)
        self.watch({"event": "epoch", **record, "eta_seconds": self._eta()})
        for message in record["alarms"]:
            self.watch({"event": "alarm", "message": f"Epoch {record['epoch']}: {message}"})
        for observer in self.observers:
            observer.epoch(p.log, self.engine)

    def _validate(self) -> tuple[float | None, dict[str, float | None], dict[str, int]]:
        """Loss, pseudo-Dice per label and voxels of each label in the patches, over the next validation batches."""
        labels = self.engine.labels
        if not self.progress.validation_iterations:
            return None, {label.name: None for label in labels.labels}, {label.name: 0 for label in labels.labels}
        series = range(self.progress.validation_iterations)
        losses, counts = zip(*(self.engine.evaluate(*self.validation.next(self.interruption.check)) for _ in series), strict=True)
        mean = statistics.fmean(float(loss) for loss in losses)
        summed = torch.stack(counts).sum(0).cpu()
        return (mean if mean - mean == 0 else None), pseudo_dice(summed, labels), shown_voxels(summed, labels)

    def _follow(self, mean: float | None) -> bool:
        """Moves the average of the pseudo-Dice and keeps the weights where it has never been higher."""
        p = self.progress
        if mean is None:
            return False
        p.ema = mean if p.ema is None else _EMA * p.ema + (1 - _EMA) * mean
        if p.best_ema is not None and p.ema <= p.best_ema:
            return False
        p.best_ema, p.best_epoch = p.ema, p.epoch
        self.engine.remember_best()
        return True

    def _timing(self, trained: float) -> dict[str, Any]:
        samples = self._epoch_steps * self.engine.batch_size
        return {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "elapsed": round(self._elapsed(), 3),
            "seconds": round(self._elapsed() - self._epoch_began, 3),
            "samples_per_second": round(samples / trained, 3) if samples and trained > 0 else None,
            "parts": {part: round(seconds, 3) for part, seconds in self.engine.shares.seconds.items()},
            "memory_bytes": memory_in_use(self.engine.device),
        }

    def _save(self, generators: dict[str, Tensor]) -> None:
        self._settle()
        self.progress.elapsed = self._elapsed()
        self.save(generators)
        self._saved = time.monotonic()


def memory_in_use(device: torch.device) -> int:
    """Bytes that training takes now: the peak on a GPU, else the resident memory of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)
