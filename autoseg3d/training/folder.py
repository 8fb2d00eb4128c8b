"""The folder of one fold, and whether a run may begin, go on or is finished there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from autoseg3d.errors import ModelError, UsageError
from autoseg3d.files import read_contract, storage_errors, write_text
from autoseg3d.training.options import FoldResult, TrainOptions, recipe
from autoseg3d.training.state import Environment, Identity, State, load_state
from planners.plan import TrainingPlan


@dataclass(frozen=True)
class FoldFolder:
    """RUN/folds/<configuration>/fold_<k>/ with state/, log.jsonl, curves.png, validation/, scores.csv, result.json."""

    path: Path

    @property
    def state(self) -> Path:
        """The folder of saved states."""
        return self.path / "state"

    @property
    def log(self) -> Path:
        """One line per epoch."""
        return self.path / "log.jsonl"

    @property
    def curves(self) -> Path:
        """The picture of the log."""
        return self.path / "curves.png"

    @property
    def validation(self) -> Path:
        """The folder of predicted held-out cases."""
        return self.path / "validation"

    @property
    def pictures(self) -> Path:
        """The folder of example pictures."""
        return self.path / "pictures"

    @property
    def tensorboard(self) -> Path:
        """The folder of event files."""
        return self.path / "tensorboard"

    @property
    def start_file(self) -> Path:
        """What was taken over from another model."""
        return self.path / "start.json"

    def probabilities(self, case: str) -> Path:
        """The probabilities of a held-out case, where they were asked for."""
        return self.validation / f"{case}.npz"

    @property
    def result_file(self) -> Path:
        """Written last: where it is, the fold is finished."""
        return self.path / "result.json"

    def begun(self) -> bool:
        """Whether training ever began here."""
        return self.log.exists() or any(self.state.glob("state-*.json")) or self.result_file.exists()

    def clear(self) -> None:
        """Throws away everything that training wrote here; the record of being finished goes first."""
        self.result_file.unlink(missing_ok=True)
        for folder in (self.state, self.validation, self.pictures, self.tensorboard):
            shutil.rmtree(folder, ignore_errors=True)
        for name in (self.log, self.curves, self.start_file, self.path / "scores.csv", self.path / "scores.json", self.path / "summary.md"):
            name.unlink(missing_ok=True)

    def finish(self, result: FoldResult) -> None:
        """Marks the fold as finished."""
        write_text(self.result_file, result.to_json())

    def finished(self, options: TrainOptions, *, start_from: str | None = None) -> FoldResult | None:
        """The result of a fold that is to be resumed, is finished, and is not asked to be made longer."""
        if options.mode != "resume" or not self.result_file.is_file():
            return None
        result = read_contract(self.result_file, FoldResult)
        return result if continued_recipe(result.training, options, start_from=start_from) == result.training else None

    def enter(self, options: TrainOptions) -> State | None:
        """The state to go on from, None where training begins anew.

        Raises UsageError for a "fresh" start where training has begun, ModelError where every state is broken or gone.
        """
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if options.mode == "restart":
                self.clear()
        if not self.begun():
            return None
        if options.mode == "fresh":
            finished = self.result_file.is_file()
            text = "this fold is finished already" if finished else "training of this fold has begun already"
            remedy = "--resume keeps it" if finished else "--resume goes on where it stopped"
            raise UsageError(text, file=self.path, code="E_BEGUN", remedy=f"{remedy}; --restart throws it away and begins anew")
        state = load_state(self.state)
        if state is None:
            remedy = "Restore the folder from a backup, or begin the fold anew with --restart"
            raise ModelError("training has begun here, but its saved states are gone", file=self.state, code="E_STATE", remedy=remedy)
        return state


def fold_folder(run: Path, configuration: str, fold: str) -> FoldFolder:
    """The folder of a fold in the folder of a run."""
    return FoldFolder(run / "folds" / configuration / f"fold_{fold}")


def continued_recipe(stored: TrainingPlan, options: TrainOptions, *, start_from: str | None = None) -> TrainingPlan:
    """The recipe to go on with: the stored one, or a longer one where the wishes ask for more epochs or more time.

    Raises UsageError where the wishes ask for another recipe.
    """
    wanted = recipe(stored, options, start_from=start_from)
    if wanted == stored:
        return stored
    length = {"epochs": stored.epochs, "seconds": stored.seconds}
    if stored.seconds is not None and wanted.seconds is not None:
        longer = wanted.seconds > stored.seconds
    else:
        longer = stored.seconds is None and wanted.seconds is None and wanted.epochs > stored.epochs
    if wanted.model_copy(update=length) != stored or not longer:
        changed = [name for name in TrainingPlan.model_fields if getattr(wanted, name) != getattr(stored, name)]
        was, got = ({name: getattr(training, name) for name in changed} for training in (stored, wanted))
        remedy = "Resume without these options, or begin anew with --restart"
        raise UsageError("a run can be made longer, but not otherwise changed", code="E_CHANGED", wanted=was, got=got, remedy=remedy)
    return wanted


def check_identity(stored: Identity, now: Identity, folder: Path) -> None:
    """Raises UsageError where a saved state belongs to another plan, other data or another split."""
    words = {"plan_hash": "the plan", "data_hash": "the data", "split_hash": "the cases of this fold"}
    changed = [text for name, text in words.items() if getattr(stored, name) != getattr(now, name)]
    if changed:
        remedy = "Put back what was changed, or begin anew with --restart"
        text = f"{' and '.join(changed)} changed since this training was saved"
        raise UsageError(text, file=folder, code="E_CHANGED", remedy=remedy)


def environment_notes(stored: Environment, now: Environment) -> list[str]:
    """What computes differently from before; such a run goes on, but not bit for bit as it would have."""
    changed = [name for name in Environment.model_fields if getattr(stored, name) != getattr(now, name)]
    words = "{} was {} and is {} now: the last digits of results will differ"
    return [words.format(name, getattr(stored, name), getattr(now, name)) for name in changed]
