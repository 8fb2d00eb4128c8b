"""Plans on the terminal: one table per configuration, each number with the reason it was chosen for, then the forecast."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from autoseg3d.api import PlanWishes, Reading
    from planners.edit import ComparedRow
    from planners.fingerprint import Fingerprint
    from planners.forecast import Forecast
    from planners.plan import Plan


def plan_raw(
    raw: Path, run: Path, wishes: PlanWishes, reading: Reading, what_if: Sequence[str] | None, *, overwrite: bool, as_json: bool
) -> None:
    """Plans a dataset folder into a run folder and shows the plan, or compares it with others and writes nothing."""
    from autoseg3d import api
    from autoseg3d.cli import show

    with show.progress() as report:
        if what_if:
            known = api.measure(raw, run, reading=reading, progress=report).fingerprint
        else:
            made = api.plan(raw, run, wishes=wishes, reading=reading, overwrite=overwrite, progress=report)
    if what_if:
        show_comparison(api.what_if(known, wishes, what_if), what_if)
        return
    show_plan(made.plan, made.forecasts, as_json=as_json)
    if not as_json:
        show.output.print(f"Written to {run}. Next: autoseg3d train {run} --fold all")


def plan_known(fingerprint: Fingerprint, wishes: PlanWishes, what_if: Sequence[str] | None, *, as_json: bool) -> None:
    """Plans from a fingerprint and shows the plan; with a forecast unless only the JSON is asked for."""
    from autoseg3d import api

    if what_if:
        show_comparison(api.what_if(fingerprint, wishes, what_if), what_if)
    elif as_json:
        show_plan(api.plan_fingerprint(fingerprint, wishes=wishes), as_json=True)
    else:
        made = api.plan_and_forecast(fingerprint, wishes=wishes)
        show_plan(made.plan, made.forecasts, as_json=False)


def show_plan(plan: Plan, forecasts: Iterable[Forecast] = (), *, as_json: bool) -> None:
    """Prints the plan as tables with what training will take, or as nothing but JSON."""
    if as_json:
        typer.echo(plan.to_json(), nl=False)
        return
    from autoseg3d.cli import show
    from planners.readable import sections

    for section in sections(plan, forecasts):
        show.table(section.title, ("", "chosen", "because"), [(line.name, line.value, line.reason) for line in section.lines])


def show_comparison(rows: Sequence[ComparedRow], changes: Sequence[str]) -> None:
    """Prints plans side by side; rows in which they differ are marked."""
    from autoseg3d.cli import show

    lines = [(("* " if row.differs else "  ") + row.field, *row.values) for row in rows]
    show.table("What if (* marks what differs)", ("", "as asked", *changes), lines)
