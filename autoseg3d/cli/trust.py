"""autoseg3d doctor and autoseg3d verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg3d.cli import options


def doctor(
    folder: Annotated[Path, typer.Argument(help="Where results would be written; tried, and left as it was.")] = Path(),
    device: options.Device = "auto",
) -> None:
    """Check this installation and this machine, and say in plain words what will fail.

    Looks at memory, disk, write rights, clock, processes and devices, then segments a small scan whose right answer is
    known, stored in several orientations. Exit code 3 when something is at fault. Takes a few seconds.

    Example: autoseg3d doctor /data/results
    """
    from autoseg3d import api
    from autoseg3d.cli import show
    from autoseg3d.doctor import worst

    found = api.doctor(folder, device=device)
    rows = [(finding.what, finding.verdict, f"{finding.said}. {finding.remedy}".rstrip(". ") + ".") for finding in found]
    show.table("", ("", "", "what it means"), rows)
    verdict = worst(found)
    faults = sum(finding.verdict == "fault" for finding in found)
    closing = {
        "fine": "All is well.",
        "warning": "It works; see the warnings.",
        "fault": f"{faults} {'thing is' if faults == 1 else 'things are'} at fault: mend them before you rely on results.",
    }
    show.output.print(closing[verdict], style="red" if verdict == "fault" else None)
    raise typer.Exit(3 if verdict == "fault" else 0)


def verify(
    records: Annotated[Path, typer.Argument(help="The record of a label map, OUT/CASE.json, or the whole folder OUT.")],
    scans: Annotated[Path | None, typer.Option(help="The scans that were segmented, to compare them too.")] = None,
    model: Annotated[list[Path] | None, typer.Option(help="The model that was used, to compare it too; again for each of several.")] = None,
    predict: Annotated[bool, typer.Option("--predict", help="Also segment the scans anew and compare the labels.")] = False,
) -> None:
    """Check that results are still what their records say: label maps, scans, model and options, by their hashes.

    Exit code 3 when something was changed or is missing.

    Examples:

      autoseg3d verify out/

      autoseg3d verify out/patient.json --scans scans/ --model liver.a3d --predict
    """
    from autoseg3d import api
    from autoseg3d.cli import show

    found = api.verify(records, scans=scans, models=model or (), predict=predict)
    wrong = [check for check in found if check.state in ("different", "missing")]
    cases = len({check.case for check in found})
    if wrong or cases == 1:
        rows = [(check.case, check.what, check.state, check.said) for check in (found if cases == 1 else wrong)]
        show.table("", ("case", "what", "", ""), rows)
    open_questions = sorted({check.what for check in found if check.state == "not checked"})
    unchecked = f" Not checked: {', '.join(open_questions)}." if open_questions else ""
    said = f"{len(wrong)} of {len(found)} things are not what the records say." if wrong else "Everything is what the records say."
    show.output.print(f"{cases} {'record' if cases == 1 else 'records'}. {said}{unchecked}", style="red" if wrong else None)
    raise typer.Exit(3 if wrong else 0)


def register(app: typer.Typer) -> None:
    """Adds the commands of this file to the application."""
    app.command()(doctor)
    app.command()(verify)
