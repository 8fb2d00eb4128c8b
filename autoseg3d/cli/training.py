"""autoseg3d train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg3d.cli import options


def train(
    run: Annotated[Path, typer.Argument(help="Folder of the run, made by autoseg3d plan.")],
    fold: Annotated[str, typer.Option(help="0 to 4: that fold. all: each fold in turn. full: one model on all cases.")],
    configuration: Annotated[str | None, typer.Option(help="Which configuration of the plan. Default: 3d_fullres, else 2d.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs, instead of the plan's.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Training steps per epoch, instead of the plan's.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.05, help="Wall-clock minutes of the training loop per fold; the schedule is fitted to them.")
    ] = None,
    hours: Annotated[float | None, typer.Option(min=0.001, help="The same in hours.")] = None,
    device: options.Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16. auto takes bf16 where the device has it.")] = "auto",
    workers: options.Workers = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Start of all random draws, instead of the plan's.")] = None,
    augmentation: Annotated[str, typer.Option(help="torch: our own. batchgenerators: the reference pipeline, slower.")] = "torch",
    save_every: Annotated[float, typer.Option(min=1, help="Seconds between two saved states.")] = 300.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted fold exactly where it stopped; start it where it never began.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what a fold has reached and begin anew.")] = False,
) -> None:
    """Train a fold: prepare the cases, train the network, validate the fold's held-out cases, add it to the model.

    Examples:

      autoseg3d train runs/hippocampus --fold 0 --minutes 20

      autoseg3d train runs/hippocampus --fold all --resume
    """
    from autoseg3d import api
    from autoseg3d.cli import show
    from autoseg3d.cli.watching import watch
    from autoseg3d.training.options import TrainOptions

    if resume and restart:
        raise typer.BadParameter("give --resume or --restart, not both")
    wishes = TrainOptions(
        epochs=epochs,
        iterations=iterations,
        seconds=options.seconds_of(minutes=minutes, hours=hours),
        device=device,
        precision=options.precision_choice(precision),
        workers=workers,
        seed=seed,
        augmentation=options.augmentation_choice(augmentation),
        save_every_seconds=save_every,
        mode="resume" if resume else "restart" if restart else "fresh",
    )
    with show.progress() as report, watch() as watching:
        results = api.train(run, fold=fold, configuration=configuration, options=wishes, watch=watching, progress=report)
    rows = [(result.fold, f"{result.mean_dice:.4f}" if result.mean_dice is not None else "–", result.cases) for result in results]
    show.table("Held-out cases", ("fold", "mean Dice", "cases"), rows)
    show.output.print(f"Next: autoseg3d predict SCANS --model {run} --out OUT")


def register(app: typer.Typer) -> None:
    """Adds the command of this file to the application."""
    app.command()(train)
