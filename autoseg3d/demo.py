"""The demonstration: the whole way on the phantom, from a raw folder to pictures of predictions on scans never seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg3d import api
from autoseg3d.errors import UsageError

if TYPE_CHECKING:
    from autoseg3d.evaluation import Scores
    from autoseg3d.pictures import Picture

Progress = Callable[[str, int, int], None]
Watch = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration made: scores on the test scans, a picture of each, and a contact sheet of all."""

    scores: Scores
    sheet: Path
    pictures: tuple[Path, ...]


def run_demo(folder: Path, *, minutes: float = 3.2, watch: Watch | None = None, progress: Progress | None = None) -> DemoResult:
    """Makes the phantom in `folder`, plans, trains fold 0 for `minutes`, predicts the test scans, evaluates, and draws.

    Raises UsageError where `folder` holds anything already.
    """
    from autoseg3d.phantom import write_phantom_dataset
    from autoseg3d.training.options import TrainOptions

    if folder.exists() and any(folder.iterdir()):
        raise UsageError("the folder is not empty", file=folder, remedy="Remove it, or name another: autoseg3d demo FOLDER")
    raw, run, out, scores = (folder / name for name in ("raw", "run", "predictions", "scores"))
    write_phantom_dataset(raw, progress=progress)
    # Three minutes are hardly a training: Dice over the batch helps the small lesion to be found in time.
    hurry = ("3d_fullres.batch_dice=true",)
    api.plan(raw, run, wishes=api.PlanWishes(seconds=60 * minutes, changes=hurry), progress=progress)
    api.train(run, fold="0", options=TrainOptions(seconds=60 * minutes), watch=watch, progress=progress)
    api.predict(raw / "imagesTs", run, out, progress=progress)
    found = api.evaluate(out, raw / "labelsTs", scores, dataset=raw / "dataset.json", progress=progress)
    sheet, pictures = _draw(raw, out, folder / "pictures")
    return DemoResult(found, sheet, pictures)


def _draw(raw: Path, out: Path, folder: Path) -> tuple[Path, tuple[Path, ...]]:
    from autoseg3d.pictures import mosaic, overview

    names = {label.paint: label.name for label in api.label_table_of(raw / "dataset.json").labels}
    drawn = []
    for picture in _pictures(raw, out):
        drawn.append(folder / f"{picture.title}.png")
        overview(picture, drawn[-1], names=names)
    sheet = folder / "all.png"
    mosaic(_pictures(raw, out), sheet, names=names, plane="coronal", columns=2)
    return sheet, tuple(drawn)


def _pictures(raw: Path, out: Path) -> Iterator[Picture]:
    from autoseg3d.io import read_volume
    from autoseg3d.pictures import Picture

    for path in sorted(out.glob("*.nii.gz")):
        case = path.name.removesuffix(".nii.gz")
        image = read_volume(raw / "imagesTs" / f"{case}_0000.nii.gz")
        truth, prediction = (read_volume(folder / path.name, labels=True).array for folder in (raw / "labelsTs", out))
        yield Picture(title=case, image=image.array, geometry=image.geometry, labels=truth, prediction=prediction)
