"""select_run: chooses from the out-of-fold predictions of a run and writes the choice into the run and its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from autoseg3d.errors import UsageError
from autoseg3d.files import read_contract, write_text
from autoseg3d.io import GeometryChoice
from autoseg3d.io.dataset import open_dataset
from autoseg3d.package import Selection, open_package, set_postprocessing
from autoseg3d.run import RunFolder
from autoseg3d.select.choosing import RULE, Choice, Members, choose
from autoseg3d.select.estimating import dice_of, estimate, nested_dice, parts_of
from autoseg3d.select.out_of_fold import HeldOutCase, ensembles, finished_folds, held_out_cases, measure_cases
from autoseg3d.select.parts import CaseParts
from autoseg3d.training.splits import Splits
from autoseg3d.workers import Progress
from planners.labels import LabelTable
from planners.plan import Plan
from planners.postprocessing import Postprocessing, PostprocessingTable


def select_run(
    run: Path | str, *, configurations: Sequence[str] | None = None, workers: int = 1, progress: Progress | None = None
) -> Selection:
    """Chooses configuration or ensemble and postprocessing, and writes RUN/selection.json and the model in RUN/model.

    Args:
        run: a run folder with finished folds.
        configurations: those to choose among; all with a finished fold where None. Ensembles are tried of those whose
            probabilities were saved beside the held-out predictions (`train --validation-probabilities`).
        workers: processes that read cases; 0 or 1 works in this one.
        progress: called with (what, done, total).

    Raises UsageError (E_SELECT) where there is too little to choose from, DatasetError naming predictions that were
    changed, ModelError where the run has no model.
    """
    folder = RunFolder(Path(run))
    plan, record = folder.plan(), folder.record()
    names = _configurations(folder.path, plan, configurations)
    dataset = open_dataset(Path(record.raw), partial=True)
    splits = read_contract(folder.path / "splits.json", Splits)
    cases, folds, left_out = held_out_cases(folder.path, dataset, splits, names)
    members: list[Members] = [*((name,) for name in names), *ensembles(cases, names)]
    measured = measure_cases(
        cases, members, labels=plan.labels, choice=cast(GeometryChoice, record.geometry), workers=workers, progress=progress
    )
    selection = _selection(measured, cases, default=(_default(plan, names),), labels=plan.labels, folds=folds, left_out=left_out)
    known = open_package(folder.model).contents.postprocessing.entries
    others = [entry for entry in known if set(entry.configurations) != set(selection.configurations)]
    set_postprocessing(folder.model, PostprocessingTable(entries=(selection.postprocessing, *others)), selection=selection)
    write_text(folder.path / "selection.json", selection.to_json())
    return selection


def _configurations(run: Path, plan: Plan, wanted: Sequence[str] | None) -> tuple[str, ...]:
    if unknown := [name for name in wanted or () if name not in plan.configurations]:
        there = ", ".join(plan.configurations)
        raise UsageError("the plan has no such configuration", field="--configurations", wanted=there, got=", ".join(unknown))
    names = tuple(dict.fromkeys(wanted or [name for name in plan.configurations if finished_folds(run, name)]))
    if not names:
        remedy = "Train some folds first: autoseg3d train RUN --fold all"
        raise UsageError("no fold of this run is finished", code="E_SELECT", file=run, remedy=remedy)
    return names


def _default(plan: Plan, names: Sequence[str]) -> str:
    """What `predict` takes without a choice: the plan's default, else the first."""
    default = plan.configuration()[0]
    return default if default in names else names[0]


def _selection(
    measured: Mapping[Members, Sequence[CaseParts]],
    cases: Sequence[HeldOutCase],
    *,
    default: Members,
    labels: LabelTable,
    folds: dict[str, tuple[str, ...]],
    left_out: tuple[str, ...],
) -> Selection:
    choice = choose(measured, default=default, labels=labels)
    parts = parts_of([case.fold for case in cases], [case.group for case in cases])
    nested, choices = nested_dice(measured, parts, default=default, labels=labels)
    return Selection(
        configurations=choice.members,
        postprocessing=_postprocessing(choice, len(cases)),
        folds=folds,
        cases=tuple(case.id for case in cases),
        left_out=left_out,
        plain=estimate(dice_of(Choice(default), measured, labels), labels),
        chosen=estimate(dice_of(choice, measured, labels), labels),
        nested=estimate(nested, labels),
        nested_choices=tuple(one.sentence(labels) for one in choices),
        candidates=choice.candidates,
        choice=choice.sentence(labels),
        rule=RULE,
    )


def _postprocessing(choice: Choice, cases: int) -> Postprocessing:
    reason = f"gained more than noise on {cases} out-of-fold cases" if choice.steps else f"no step gained more than noise on {cases} cases"
    return Postprocessing(configurations=choice.members, steps=choice.steps, reason=reason)
