"""autoseg3d check and autoseg3d plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoseg3d.cli import options

if TYPE_CHECKING:
    from autoseg3d.errors import Autoseg3dError

_ALIKE_TOLD = 10

Raw = Annotated[Path, typer.Argument(help="Dataset folder: nnU-Net v2 layout, Medical Segmentation Decathlon, or images/ with labels/.")]
Planner = Annotated[str, typer.Option(help="standard, nnunet, resenc-m, resenc-l, resenc-xl, residual, vnet, or an installed one.")]
Memory = Annotated[str | None, typer.Option(help="Memory a training step may take, such as 8GB. Default: what the device has free.")]
Change = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Fix a value and derive the rest from it, such as 3d_fullres.patch_size=96,160,160. May be given several times."
    ),
]
WhatIf = Annotated[
    list[str] | None,
    typer.Option(
        help="Show another plan beside this one, such as memory=24GB or spacing=1,1,1. May be given several times. Writes no plan."
    ),
]
Groups = Annotated[
    str | None, typer.Option(help="Regular expression for the patient in a case's name, such as 'patient[0-9]+': one patient, one fold.")
]
Exclude = Annotated[list[str] | None, typer.Option(help="Leave out this case. May be given several times.")]


def check(
    raw: Raw,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write what was found to this HTML file, with pictures and charts; it needs no network to be read."),
    ] = None,
    exclude: Exclude = None,
    geometry: options.Geometry = "auto",
    workers: options.Workers = None,
) -> None:
    """Find every fault of a dataset folder, all at once.

    Exit code 0 when the dataset can be used (warnings are printed), 3 when it has faults.

    Examples:

      autoseg3d check /data/Hippocampus

      autoseg3d check /data/Hippocampus --report health.html
    """
    from autoseg3d import api
    from autoseg3d.cli import show

    reading = api.Reading(exclude=frozenset(exclude or ()), geometry=options.geometry_choice(geometry), workers=workers)
    with show.progress() as progress:
        if report is None:
            survey = api.check(raw, reading=reading, progress=progress)
        else:
            survey = api.check_report(raw, report, reading=reading, progress=progress)
    for warning in survey.warnings:
        show.finding("warning", warning, style="yellow")
    for line in _fault_lines(survey.faults):
        show.finding("fault", line, style="red")
    if report is not None:
        show.output.print(f"Written to {report}", soft_wrap=True)
    warnings = _counted(len(survey.warnings), "warning")
    if survey.faults:
        found = f"{_counted(len(survey.faults), 'fault')}, {warnings}"
        show.output.print(f"{found}. Mend the faults, or leave cases out with --exclude CASE.", soft_wrap=True)
        raise typer.Exit(3)
    cases = _counted(len(survey.fingerprint.cases) if survey.fingerprint else 0, "case")
    show.output.print(f"{cases} can be used, {warnings}. Next: autoseg3d plan {raw} --run RUN", soft_wrap=True)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _fault_lines(faults: Sequence[Autoseg3dError]) -> Iterator[str]:
    """One line for each fault; of a fault that many cases share the first few, then the names of the others."""
    alike: dict[tuple[str, str], list[Autoseg3dError]] = {}
    for fault in faults:
        alike.setdefault((fault.code, fault.what), []).append(fault)
    for (code, what), group in alike.items():
        told = group if len(group) <= _ALIKE_TOLD + 1 or any(fault.case is None for fault in group) else group[:_ALIKE_TOLD]
        yield from map(str, told)
        if rest := [str(fault.case) for fault in group[len(told) :]]:
            yield f"{code}: {what}: the same in {len(rest)} more cases, {', '.join(rest)}"


def plan(
    raw: Annotated[Path | None, typer.Argument(help="Dataset folder, as for check.")] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run; made if it is not there.")] = None,
    planner: Planner = "standard",
    memory: Memory = None,
    minutes: Annotated[float | None, typer.Option(min=0.1, help="Training time per fold in minutes, to plan for.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.01, help="Training time per fold in hours, to plan for.")] = None,
    device: options.Device = "auto",
    exclude: Exclude = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the plan of an existing run.")] = False,
    change: Change = None,
    what_if: WhatIf = None,
    geometry: options.Geometry = "auto",
    groups: Groups = None,
    workers: options.Workers = None,
    fingerprint: Annotated[Path | None, typer.Option(help="Plan from a fingerprint.json (ours or nnU-Net's) without the images.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="The dataset.json that goes with --fingerprint.")] = None,
    print_json: Annotated[bool, typer.Option(help="Print the plan as JSON on stdout and nothing else.")] = False,
) -> None:
    """Check a dataset, measure it, and choose every setting of the training, with the reason of each.

    Writes fingerprint.json, plan.json, plan.md and splits.json into the run folder; nothing if the dataset has faults.
    Prints how long training will take on this machine, and how much memory and disk.

    Examples:

      autoseg3d plan /data/Hippocampus --run runs/hippocampus

      autoseg3d plan /data/Liver --run runs/liver --memory 12GB --hours 24

      autoseg3d plan --fingerprint fingerprint.json --dataset dataset.json --planner nnunet --print-json
    """
    from autoseg3d import api
    from autoseg3d.cli import plans

    wishes = api.PlanWishes(
        planner=planner,
        memory_bytes=options.memory_bytes(memory),
        seconds=options.seconds_of(minutes=minutes, hours=hours),
        device=device,
        changes=tuple(change or ()),
    )
    if fingerprint is not None:
        plans.plan_known(api.read_any_fingerprint(fingerprint, dataset), wishes, what_if, as_json=print_json)
        return
    if raw is None or run is None:
        raise typer.BadParameter("give the dataset folder and --run RUN, or --fingerprint with --dataset")
    chosen = options.geometry_choice(geometry)
    reading = api.Reading(exclude=frozenset(exclude or ()), geometry=chosen, group_pattern=groups, workers=workers)
    plans.plan_raw(raw, run, wishes, reading, what_if, overwrite=overwrite, as_json=print_json)


def register(app: typer.Typer) -> None:
    """Adds the commands of this file to the application."""
    app.command()(check)
    app.command()(plan)
