"""Example pictures and event files: right in place and orientation, and without any effect on the training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import Run, made_run, train

from autoseg3d.io import load_case
from autoseg3d.preprocessing import prepare
from autoseg3d.training.engine import Engine
from autoseg3d.training.examples import Examples, working_geometry
from planners.plan import Plan

NAME = "3d_fullres"


@pytest.fixture
def run(raw: Path, tmp_path: Path) -> Run:
    return made_run(raw, tmp_path / "run")


def engine_of(plan: Plan) -> Engine:
    return Engine(plan, NAME, plan.training, device=torch.device("cpu"), precision="fp32", seed=0)


@pytest.mark.parametrize("slicewise", [False, True])
def test_the_picture_shows_the_scan_and_its_labels_where_they_are(run: Run, tmp_path: Path, slicewise: bool) -> None:
    folder, dataset, plan = run
    changes: dict[str, Any] = {"axis_order": (2, 0, 1)}
    if slicewise:
        chosen = plan.configurations[NAME]
        stages = tuple(s.model_copy(update={"kernel": (1, 3, 3), "stride": (1, *s.stride[1:])}) for s in chosen.network.stages)
        network = chosen.network.model_copy(update={"stages": stages})
        flat = {"slicewise": True, "patch_size": (1, 16, 16), "batch_size": 12, "network": network}
        changes["configurations"] = {NAME: chosen.model_copy(update=flat)}
    plan = plan.model_copy(update=changes)
    store = prepare(dataset, plan, NAME, folder / "cache")
    case = store.ids[0]
    picture = Examples(tmp_path, store, case, plan, NAME).picture(engine_of(plan))
    assert picture.labels is not None
    assert picture.prediction is not None
    assert picture.image.shape == ((12, 16, 16) if slicewise else (16, 16, 16))
    loaded = load_case(next(known for known in dataset.cases if known.id == case), labels=plan.labels).case
    assert loaded.labels is not None
    backward = np.linalg.inv(loaded.geometry.matrix) @ picture.geometry.matrix
    for z, y, x in np.argwhere(picture.labels > -1)[::97]:
        i, j, k = (round(float(v)) for v in (backward @ (x, y, z, 1))[:3])
        assert picture.labels[z, y, x] == loaded.labels[k, j, i]
    assert set(np.unique(picture.prediction)) <= {0, 1, 2}


def test_a_working_voxel_lies_where_resizing_put_it(run: Run) -> None:
    folder, dataset, plan = run
    half = plan.configurations[NAME].model_copy(update={"spacing_mm": (2.0, 2.0, 2.0), "patch_size": (8, 8, 8)})
    plan = plan.model_copy(update={"configurations": {NAME: half}})
    store = prepare(dataset, plan, NAME, folder / "cache")
    placement = store.placement(store.ids[0])
    geometry = working_geometry(placement, (0, 0, 0))
    assert geometry.spacing_mm == pytest.approx((2, 2, 2))
    # Corner to corner both grids cover the same box: half a coarse voxel before the first centre, as half a fine one.
    turned = placement.native.turned(placement.axes, placement.flips)
    np.testing.assert_allclose(geometry.matrix @ (-0.5, -0.5, -0.5, 1), turned.matrix @ (-0.5, -0.5, -0.5, 1), atol=1e-9)
    np.testing.assert_allclose(geometry.matrix @ (9.5, 9.5, 9.5, 1), turned.matrix @ (19.5, 19.5, 19.5, 1), atol=1e-9)


def test_a_network_that_has_come_to_grief_can_be_drawn(run: Run, tmp_path: Path) -> None:
    folder, dataset, plan = run
    store = prepare(dataset, plan, NAME, folder / "cache")
    engine = engine_of(plan)
    for parameter in engine.evaluated.parameters():
        parameter.data.fill_(torch.nan)
    picture = Examples(tmp_path, store, store.ids[0], plan, NAME).picture(engine)
    assert picture.prediction is not None
    assert not picture.prediction.any()


def test_watching_changes_nothing_and_leaves_its_files(run: Run, raw: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    watched = train(run, epochs=2, iterations=3, pictures=True, tensorboard=True)
    folder = run[0] / "folds" / NAME / "fold_0"
    latest = (folder / "pictures" / "latest.png").read_bytes()
    assert latest == (folder / "pictures" / "attempt_1_epoch_0002.png").read_bytes()
    (events,) = (folder / "tensorboard").glob("events.out.tfevents.*")
    assert b"dice/bright" in events.read_bytes()
    plain = train(made_run(raw, tmp_path / "plain"), epochs=2, iterations=3)
    assert watched.weights_sha256 == plain.weights_sha256
    train(run, mode="restart", epochs=1, iterations=1)
    assert not (folder / "pictures").exists()
    assert not (folder / "tensorboard").exists()
