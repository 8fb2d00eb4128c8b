"""A plan on the terminal: one table per configuration, each number with the reason it was chosen for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from planners.edit import ComparedRow
    from planners.plan import Plan


def show_plan(plan: Plan, *, as_json: bool) -> None:
    """Prints the plan as tables, or as nothing but JSON."""
    if as_json:
        typer.echo(plan.to_json(), nl=False)
        return
    from autoseg3d.cli import show
    from planners.readable import sections

    for section in sections(plan):
        show.table(section.title, ("", "chosen", "because"), [(line.name, line.value, line.reason) for line in section.lines])


def show_comparison(rows: Sequence[ComparedRow], changes: Sequence[str]) -> None:
    """Prints plans side by side; rows in which they differ are marked."""
    from autoseg3d.cli import show

    lines = [(("* " if row.differs else "  ") + row.field, *row.values) for row in rows]
    show.table("What if (* marks what differs)", ("", "as asked", *changes), lines)
