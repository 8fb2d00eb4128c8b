"""Scores: the whole result of an evaluation, as it is written to disk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from autoseg3d.evaluation.rows import ScoreRow
from autoseg3d.evaluation.summary import Summary, summarise
from autoseg3d.evaluation.tables import COLUMNS, summary_lines
from planners.contract import Contract

_NAMED = 10


class Failure(Contract):
    """A case that could not be scored: the error's stable code, and what is wrong in words."""

    case: str
    code: str
    message: str

    def __str__(self) -> str:
        return self.message


class Scores(Contract):
    """An evaluation: its rows, sorted by case and in the order of the labels, their summary, and what could not be scored.

    `notes` name what was there and not used, such as probabilities of another grid.
    """

    version: Literal[1] = 1
    rows: tuple[ScoreRow, ...]
    summary: Summary
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def cases(self) -> tuple[str, ...]:
        """The cases scored, in the order of the rows."""
        return tuple(dict.fromkeys(row.case for row in self.rows))

    def case_dice(self) -> dict[str, float]:
        """The mean Dice over the labels of each case, lowest first; cases without any defined Dice are left out."""
        dices: dict[str, list[float]] = {}
        for row in self.rows:
            if row.dice is not None:
                dices.setdefault(row.case, []).append(row.dice)
        means = {case: sum(values) / len(values) for case, values in dices.items()}
        return dict(sorted(means.items(), key=lambda item: item[1]))

    def failure_lines(self) -> tuple[str, ...]:
        """The failures for a person: cases that merely lack a file in one line for all, the others one by one."""
        lines = []
        for code, what in (("E_NO_PREDICTION", "No prediction"), ("E_NO_REFERENCE", "No reference")):
            cases = [failure.case for failure in self.failures if failure.code == code]
            if cases:
                more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
                lines.append(f"{what} for {len(cases)} case{'s' if len(cases) > 1 else ''}: {', '.join(cases[:_NAMED])}{more}")
        lines += [str(failure) for failure in self.failures if failure.code not in ("E_NO_PREDICTION", "E_NO_REFERENCE")]
        return tuple(lines)

    @property
    def columns(self) -> tuple[str, ...]:
        """The heads of `table`."""
        return COLUMNS

    @property
    def table(self) -> tuple[tuple[str, ...], ...]:
        """The summary as lines of text for a person: one per label, then the foreground mean."""
        return summary_lines(self.summary)


def collect_scores(rows: Iterable[ScoreRow], failures: Iterable[Failure] = (), *, notes: Iterable[str] = ()) -> Scores:
    """The Scores of rows in any order: sorted by case, labels in the order in which they first come, summarised."""
    held = list(rows)
    order = {name: i for i, name in enumerate(dict.fromkeys(row.label_name for row in held))}
    held.sort(key=lambda row: (row.case, order[row.label_name]))
    failed = tuple(sorted(failures, key=lambda f: f.case))
    return Scores(rows=tuple(held), summary=summarise(held), failures=failed, notes=tuple(notes))
