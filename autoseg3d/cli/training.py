"""autoseg3d train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoseg3d.cli import options

if TYPE_CHECKING:
    from autoseg3d.training.cross_validation import Spread, TrainedFolds


def train(
    run: Annotated[Path, typer.Argument(help="Folder of the run, made by autoseg3d plan.")],
    fold: Annotated[str, typer.Option(help="0 to 4: that fold. all: every fold, and their scores. full: one model on all cases.")],
    configuration: Annotated[str | None, typer.Option(help="Which configuration of the plan. Default: 3d_fullres, else 2d.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs, instead of the plan's.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Training steps per epoch, instead of the plan's.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.05, help="Wall-clock minutes of the training loop per fold; the schedule is fitted to them.")
    ] = None,
    hours: Annotated[float | None, typer.Option(min=0.001, help="The same in hours.")] = None,
    until_converged: Annotated[
        bool,
        typer.Option("--until-converged", help="Stop when more training promises nothing; epochs, minutes or hours are then the limit."),
    ] = False,
    start_from: Annotated[
        Path | None,
        typer.Option("--from", help="Start from the weights of another model (package, run or .a3d), as far as they fit."),
    ] = None,
    freeze: Annotated[
        str | None, typer.Option(help="encoder: with --from, keep the weights of the encoder and train the rest. none: train all.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(min=1e-8, help="Peak learning rate, instead of the plan's.")] = None,
    device: options.Device = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, fp32, bf16 or fp16. auto takes bf16 where the device has it, and fp16 on older CUDA GPUs.")
    ] = "auto",
    workers: options.Workers = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that the network computes with on a CPU. Default: one per core; resumed: as before.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Start of all random draws, instead of the plan's.")] = None,
    augmentation: Annotated[str, typer.Option(help="torch: our own. batchgenerators: the reference pipeline, slower.")] = "torch",
    validation_probabilities: Annotated[
        bool, typer.Option("--validation-probabilities", help="Also write the probabilities of the held-out cases, as .npz.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the curves for TensorBoard too (needs autoseg3d[tensorboard]).")
    ] = False,
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

      autoseg3d train runs/small --fold 0 --from models/large.a3d --learning-rate 0.0005
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
        precision=options.training_precision_choice(precision),
        workers=workers,
        threads=threads,
        seed=seed,
        augmentation=options.augmentation_choice(augmentation),
        save_every_seconds=save_every,
        until_converged=until_converged,
        start_from=start_from,
        freeze=options.freeze_choice(freeze),
        learning_rate=learning_rate,
        validation_probabilities=validation_probabilities,
        tensorboard=tensorboard,
        mode="resume" if resume else "restart" if restart else "fresh",
    )
    with show.progress() as report, watch() as watching:
        trained = api.train(run, fold=fold, configuration=configuration, options=wishes, watch=watching, progress=report)
    _show(trained)
    if trained.exit_code:
        show.console.print("Run the same command with --resume to try the missing folds again", soft_wrap=True)
        raise typer.Exit(trained.exit_code)
    show.output.print(f"Next: autoseg3d predict SCANS --model {run} --out OUT")


def _show(trained: TrainedFolds) -> None:
    from autoseg3d.cli import show

    rows = [
        (result.fold, f"{result.mean_dice:.4f}" if result.mean_dice is not None else "–", str(result.cases)) for result in trained.results
    ]
    rows += [(failure.fold, "failed", "–") for failure in trained.failures]
    show.table("Held-out cases", ("fold", "mean Dice", "cases"), rows)
    found = trained.cross_validation
    if found is None:
        return
    labels = [(name, *(_spread(spreads.get(over)) for over in ("cases", "folds"))) for name, spreads in found.labels.items()]
    missing = f"; without fold {', '.join(found.missing)}" if found.missing else ""
    show.table(f"Dice over {len(found.folds)} folds{missing}", ("label", "over cases", "over folds"), labels)


def _spread(spread: Spread | None) -> str:
    """ "0.893 ± 0.012"."""
    if spread is None:
        return "–"
    return f"{spread.mean:.4f}" + ("" if spread.std is None else f" ± {spread.std:.4f}")


def register(app: typer.Typer) -> None:
    """Adds the command of this file to the application."""
    app.command()(train)
