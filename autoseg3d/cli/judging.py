"""autoseg3d select and autoseg3d compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoseg3d.cli import options

if TYPE_CHECKING:
    from autoseg3d.package import Candidate, Estimate, Selection


def select(
    run: Annotated[Path, typer.Argument(help="A run folder with finished folds.")],
    configurations: Annotated[
        str | None, typer.Option(help="Those to choose among, such as 2d,3d_fullres. Default: all with a finished fold.")
    ] = None,
    workers: options.Workers = None,
) -> None:
    """Choose the best configuration or ensemble, and what to clean up after it, from the held-out predictions of a run.

    Nothing is trained. The choice goes into the model, and `autoseg3d predict` applies it from then on. The score to
    report is the nested one: every case is scored by a choice that was made without it.

    Example: autoseg3d select runs/hippocampus
    """
    from autoseg3d import api
    from autoseg3d.cli import show

    names = [part.strip() for part in configurations.split(",")] if configurations else None
    with show.progress() as report:
        selection = api.select(run, configurations=names, workers=workers, progress=report)
    rows = [(c.kind, c.name, f"{c.gain:+.4f}", f"{c.low:+.4f} to {c.high:+.4f}", "yes" if c.taken else "no") for c in _told(selection)]
    show.output.print(f"{len(selection.candidates)} candidates were tried, {len(rows)} of them change the score.")
    if rows:
        show.table("Those that do", ("what", "candidate", "gain in Dice", "interval", "taken"), rows)
    estimates = (
        ("default, nothing removed", selection.plain),
        ("chosen, nested: report this", selection.nested),
        ("chosen, on the cases it was made on", selection.chosen),
    )
    show.table(f"Mean Dice over {len(selection.cases)} cases", ("", "Dice", "95 % interval"), [(what, *_dice(e)) for what, e in estimates])
    show.output.print(f"Chosen: {selection.choice}. Written to {run / 'selection.json'} and into the model.", soft_wrap=True)
    if selection.left_out:
        show.output.print(f"Left out, since not all configurations predicted them: {', '.join(selection.left_out)}", soft_wrap=True)


def compare(
    a: Annotated[Path, typer.Argument(help="A folder of label maps, or what autoseg3d evaluate wrote.")],
    b: Annotated[Path, typer.Argument(help="The other one.")],
    reference: Annotated[Path | None, typer.Option(help="Folder of reference label maps; needed for folders of label maps.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for compare.json, compare.csv and cases.csv.")] = None,
    names: Annotated[str | None, typer.Option(help="What to call the two: ours,theirs. Default: names of their folders.")] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="dataset.json with the label names. Default: looked for beside the reference.")
    ] = None,
    tolerance: options.Tolerance = None,
    workers: options.Workers = None,
) -> None:
    """Compare two models on the same cases: paired differences with intervals, a test, and the cases that differ most.

    Differences are A minus B. Cases that only one of them has are named and left out.

    Example: autoseg3d compare ours/ theirs/ --reference labelsTs/ --out comparison/
    """
    from autoseg3d import api
    from autoseg3d.cli import show
    from autoseg3d.evaluation import COMPARISON_COLUMNS, comparison_lines

    called = _two(names)
    with show.progress() as report:
        found = api.compare(
            a,
            b,
            reference=reference,
            names=called,
            out=out,
            dataset=dataset,
            tolerance_mm=options.tolerances(tolerance),
            workers=workers,
            progress=report,
        )
    show.table(f"{len(found.cases)} cases, A: {found.name_a}, B: {found.name_b}", COMPARISON_COLUMNS, comparison_lines(found))
    cases = [(one.case, f"{one.a:.3f}", f"{one.b:.3f}", f"{one.difference:+.3f}") for one in found.losses_and_gains]
    show.table("Losses and gains of A, mean Dice", ("case", "A", "B", "A - B"), cases)
    show.output.print("wins: cases better in A : in B. p: Wilcoxon signed-rank test, Holm-corrected for single labels.")
    show.output.print(found.sentence(), soft_wrap=True)
    for note in found.notes:
        show.output.print(note, soft_wrap=True)
    for name, missing in ((found.name_a, found.only_a), (found.name_b, found.only_b)):
        if missing:
            show.output.print(f"Only {name} has: {', '.join(missing)}", soft_wrap=True)
    if out is not None:
        show.output.print(f"Written to {out}.")


def _told(selection: Selection) -> list[Candidate]:
    """The candidates worth showing: those that were taken or would change something."""
    return [candidate for candidate in selection.candidates if candidate.taken or candidate.gain]


def _dice(estimate: Estimate) -> tuple[str, str]:
    mean = "–" if estimate.dice is None else f"{estimate.dice:.4f}"
    return mean, "–" if estimate.low is None else f"{estimate.low:.4f} to {estimate.high:.4f}"


def _two(names: str | None) -> tuple[str, str] | None:
    if names is None:
        return None
    parts = [part.strip() for part in names.split(",")]
    if len(parts) != 2 or not all(parts):
        raise typer.BadParameter(f"--names takes two names with a comma between, got '{names}'")
    return parts[0], parts[1]


def register(app: typer.Typer) -> None:
    """Adds the commands of this file to the application."""
    app.command()(select)
    app.command()(compare)
