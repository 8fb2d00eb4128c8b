"""A tiny task that a network learns in seconds, and one sitting of its training; run as a script by tests that kill it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg3d.training.folder import FoldFolder, check_identity
from autoseg3d.training.interruption import Interruption
from autoseg3d.training.options import TrainOptions
from autoseg3d.training.ranks import Ranks
from autoseg3d.training.session import Session
from autoseg3d.training.splits import Split
from autoseg3d.training.state import Environment, Identity
from planners.contract import Triple
from planners.fingerprint import IntensityStatistics
from planners.labels import label_table
from planners.plan import Configuration, NetworkPlan, Plan, Stage, TrainingPlan

SIZE = 20
TRAINING = TrainingPlan(
    epochs=3,
    iterations=7,
    validation_iterations=2,
    optimizer="adamw",
    learning_rate=3e-3,
    weight_decay=1e-2,
    schedule="cosine",
    warmup=0.1,
    ema_decay=0.9,
    first_bias="frequencies",
)


class Spheres:
    """Cases with a bright ball (label 1) and a dim one (label 2) in noise: what PatchSource asks of a store."""

    def __init__(self, cases: int = 6) -> None:
        self._cases = {f"case_{i}": _case(i) for i in range(cases)}

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._cases)

    def shape(self, case_id: str) -> Triple:
        return (SIZE, SIZE, SIZE)

    def locations(self, case_id: str) -> dict[int, np.ndarray]:
        labels = self._cases[case_id][1]
        return {value: np.argwhere(labels == value).astype(np.int32) for value in (1, 2)}

    def read(self, case_id: str, start: Triple, shape: Triple) -> tuple[np.ndarray, np.ndarray]:
        image, labels = self._cases[case_id]
        found, known = np.zeros((1, *shape), np.float32), np.full(shape, -1, np.int16)
        low = [max(0, s) for s in start]
        high = [min(SIZE, s + n) for s, n in zip(start, shape, strict=True)]
        if all(a < b for a, b in zip(low, high, strict=True)):
            here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            there = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
            found[(0, *there)], known[there] = image[here], labels[here]
        return found, known


def _case(i: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(i)
    grid = np.indices((SIZE, SIZE, SIZE))
    labels = np.zeros((SIZE, SIZE, SIZE), np.int16)
    for value, corner in ((1, 6), (2, 13)):
        centre = corner + rng.integers(-1, 2, 3)
        labels[((grid - centre[:, None, None, None]) ** 2).sum(0) <= 16] = value
    image = np.choose(labels, [0.0, 2.0, -2.0]) + 0.3 * rng.standard_normal(labels.shape)
    return image.astype(np.float32), labels


def plan(training: TrainingPlan = TRAINING, *, deep_supervision: bool = True, patch: int = 16, batch_size: int = 2) -> Plan:
    stages = tuple(Stage(features=f, kernel=(3, 3, 3), stride=(s, s, s), blocks=1) for f, s in ((8, 1), (16, 2), (16, 2)))
    configuration = Configuration(
        spacing_mm=(1.0, 1.0, 1.0),
        median_shape=(20.0, 20.0, 20.0),
        patch_size=(patch, patch, patch),
        batch_size=batch_size,
        network=NetworkPlan(architecture="unet", stages=stages, decoder_blocks=(1, 1), deep_supervision=deep_supervision),
        normalization=("none",),
        use_mask_for_norm=(False,),
    )
    intensity = IntensityStatistics(mean=0, median=0, std=1, min=-3, max=3, percentile_00_5=-3, percentile_99_5=3)
    return Plan(
        planner="by hand",
        dataset_name="Spheres",
        orientation="canonical",
        axis_order=(0, 1, 2),
        mirror_axes=(0, 1, 2),
        channel_names=("MR",),
        labels=label_table({"background": 0, "bright": 1, "dim": 2}),
        intensities=(intensity,),
        configurations={"3d_fullres": configuration},
        training=training,
    )


def sit(
    folder: Path,
    *,
    training: TrainingPlan = TRAINING,
    options: TrainOptions | None = None,
    watch: Callable[[dict[str, Any]], None] | None = None,
    store: Any = None,
    full: bool = False,
    recipe: TrainingPlan | None = None,
    made: Plan | None = None,
    ranks: Ranks | None = None,
) -> Session:
    """One sitting on the spheres, begun or taken up as `options` say; the session as it is at the end.

    `training` is the plan's recipe, `recipe` the one that was asked for in its stead; `made` another plan than that of the spheres.
    """
    options = options or TrainOptions(mode="resume")
    where = FoldFolder(folder)
    state = where.enter(options)
    made, ranks = made or plan(training), ranks or Ranks()
    ids = tuple(f"case_{i}" for i in range(6))
    identity = Identity(configuration="3d_fullres", fold="0", plan_hash=made.content_hash(), data_hash="d", split_hash="s")
    if state is not None:
        check_identity(state.record.identity, identity, folder)
    with Interruption() as interruption:
        session = Session(
            folder=where,
            plan=made,
            configuration="3d_fullres",
            training=recipe or training,
            split=Split(train=ids if full else ids[:4], validation=() if full else ids[4:]),
            store=store or Spheres(),
            identity=identity,
            environment=Environment(
                version="0",
                torch=torch.__version__,
                device="cpu",
                precision="fp32",
                threads=1,
                augmentation="torch",
                processes=ranks.count,
            ),
            options=options,
            device=torch.device("cpu"),
            interruption=interruption,
            watch=watch or (lambda event: None),
            ranks=ranks,
        )
        session.train(state)
    return session


if __name__ == "__main__":
    where, save_every, workers, training = sys.argv[1:]
    wishes = TrainOptions(mode="resume", save_every_seconds=float(save_every), workers=int(workers))
    sit(Path(where), options=wishes, training=TrainingPlan.model_validate(json.loads(training)))
