"""Probabilities: on the scan's own grid, readable by NumPy, whole or not at all."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import LABELS, REGIONS, case, noise, plan, random_network

from autoseg3d.case import Placement
from autoseg3d.geometry import Geometry
from autoseg3d.prediction import Predictor, probabilities, run_members
from autoseg3d.prediction.probabilities import probability_file
from planners.labels import LabelTable


def read(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        assert archive.files == ["probabilities"]
        return archive["probabilities"]


def write(path: Path, image: np.ndarray, labels: LabelTable = LABELS) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities, labels) of a small prediction."""
    chosen = plan(labels=labels)
    predictor = Predictor(chosen, "3d_fullres", [random_network(chosen)], device="cpu", precision="fp32", slab_limit_bytes=100_000)
    prepared = predictor.prepare(case(image, (1.3, 1.0, 0.8)))
    with probability_file(path, prepared.working.placement, labels) as target:
        prediction = run_members([predictor], [prepared], on_probabilities=target.write)
    return read(path), prediction.labels


@pytest.fixture
def image() -> np.ndarray:
    image = noise((14, 20, 16))
    image[:3] = 0
    image[:, 18:] = 0
    return image


def test_softmax(tmp_path: Path, image: np.ndarray) -> None:
    found, labels = write(tmp_path / "case.npz", image)
    assert found.dtype == np.float32
    assert found.shape == (3, 14, 20, 16)
    assert np.allclose(found.sum(axis=0), 1, atol=1e-5)
    assert (found.argmax(axis=0) == labels).mean() > 0.9999
    assert (found[0, :3] == 1).all()
    assert (found[1:, :, 18:] == 0).all()


def test_regions(tmp_path: Path, image: np.ndarray) -> None:
    found, labels = write(tmp_path / "case.npz", image, REGIONS)
    assert found.shape == (2, 14, 20, 16)
    painted = np.zeros(labels.shape, int)
    for region, paint in zip(found, REGIONS.class_paint, strict=True):
        painted[region > 0.5] = paint
    assert (painted == labels).mean() > 0.9999
    assert (found[:, :3] == 0).all()


def test_turned_grids_and_mapping_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Axes turned and flipped, and the file mapped anew after every row."""
    monkeypatch.setattr(probabilities, "_MAPPED_BYTES", 1)
    native = Geometry.from_affine((4, 5, 6), np.eye(4))
    placement = Placement(
        native=native, axes=(2, 0, 1), flips=(True, False, True), crop_start=(1, 0, 1), cropped_shape=(5, 4, 3), working_shape=(5, 4, 3)
    )
    logits = torch.randn((3, 5, 4, 3))
    with probability_file(tmp_path / "p.npz", placement, LABELS) as target:
        for row in range(5):
            for part in (slice(0, 1), slice(1, 4)):
                target.write(row, part, torch.softmax(logits[:, row, part], dim=0))
    wanted = np.zeros((3, 4, 5, 6), np.float32)
    wanted[0] = 1
    placement.crop(wanted)[...] = torch.softmax(logits, 0).numpy()
    assert np.allclose(read(tmp_path / "p.npz"), wanted, atol=1e-6)


def test_the_same_bytes_every_time(tmp_path: Path, image: np.ndarray) -> None:
    write(tmp_path / "a.npz", image)
    write(tmp_path / "b.npz", image)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert zipfile.ZipFile(tmp_path / "a.npz").testzip() is None


def test_nothing_is_left_where_it_fails(tmp_path: Path) -> None:
    placement = Predictor(plan(), "3d_fullres", [random_network(plan())], device="cpu").prepare(case(noise((9, 9, 9)))).working.placement
    with pytest.raises(RuntimeError), probability_file(tmp_path / "p.npz", placement, LABELS):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
