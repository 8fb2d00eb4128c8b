"""How the folds learned: curves of all of them over their epochs."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg3d.pages import Block, Details, Gallery, LineChart, Notice, Section, Series, Table
from autoseg3d.report.folds import Fold

_ENDS = 20


def learning_section(folds: Sequence[Fold]) -> Section:
    """Loss and Dice of every fold, and what went wrong on the way."""
    blocks: list[Block] = []
    for configuration in dict.fromkeys(fold.configuration for fold in folds):
        own = [fold for fold in folds if fold.configuration == configuration and fold.log]
        if own:
            blocks.append(Gallery((_losses(own, configuration), _dices(own, configuration))))
            blocks.append(_per_label(own[0], configuration))
            blocks += [*_alarms(own), _table(own)]
    lead = (
        "Loss of training (solid) and of validation patches (dashed), and Dice on validation patches: an estimate, below the scores above."
    )
    return Section("How it learned", blocks, lead=lead)


def _losses(folds: Sequence[Fold], configuration: str) -> LineChart:
    series = []
    for fold in folds:
        epochs = _epochs(fold)
        series.append(Series(f"{fold.title}, training", epochs, [record["loss"] for record in fold.log]))
        series.append(Series(f"{fold.title}, validation", epochs, [record.get("validation_loss") for record in fold.log], dashed=True))
    return LineChart(f"{configuration}: loss", series, x_name="epoch")


def _dices(folds: Sequence[Fold], configuration: str) -> LineChart:
    series = [Series(fold.title, _epochs(fold), [record.get("ema_dice") for record in fold.log]) for fold in folds]
    return LineChart(f"{configuration}: mean Dice, smoothed", series, x_name="epoch", y_range=(0, 1))


def _per_label(fold: Fold, configuration: str) -> Details:
    names = list(fold.log[-1].get("dice", {}))
    series = [Series(name, _epochs(fold), [record["dice"].get(name) for record in fold.log]) for name in names[:_ENDS]]
    return Details(
        f"Dice per label, {configuration}, {fold.title}",
        (LineChart("Dice on validation patches", series, x_name="epoch", y_range=(0, 1)),),
        note=f"{_ENDS} of {len(names)} labels" if len(names) > _ENDS else None,
    )


def _alarms(folds: Sequence[Fold]) -> list[Notice]:
    """What training itself found wrong, each fold in one box."""
    found = {fold.title: sorted({str(alarm) for record in fold.log for alarm in record.get("alarms", ())}) for fold in folds}
    return [Notice(f"Alarms of {title}", "warn", alarms) for title, alarms in found.items() if alarms]


def _table(folds: Sequence[Fold]) -> Table:
    rows = []
    for fold in folds:
        seconds = sum(record.get("timing", {}).get("seconds", 0.0) for record in fold.log)
        rows.append(
            (
                fold.title,
                str(len(fold.log)),
                f"{seconds / 60:.0f} min",
                str(sum(record.get("skipped", 0) for record in fold.log)),
                f"{len(fold.scores.cases)} cases" if fold.scores is not None else "not validated yet",
            )
        )
    return Table(("fold", "epochs", "time", "steps left out", "validated"), rows)


def _epochs(fold: Fold) -> list[float]:
    return [float(i) for i in range(1, len(fold.log) + 1)]
