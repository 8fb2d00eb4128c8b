"""The phantom: the same bytes for the same seed, anatomy on the right side, a dataset like any other."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from autoseg3d.geometry import Geometry, turn
from autoseg3d.io import open_dataset, read_volume
from autoseg3d.phantom import LABELS, make_case, write_phantom_dataset
from autoseg3d.phantom.shapes import cut, ellipsoid, join, meet, rotation, turned

Case = tuple[np.ndarray, np.ndarray, Geometry]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [make_case(np.random.default_rng((0, False, index))) for index in range(8)]


def centre_mm(labels: np.ndarray, geometry: Geometry, organ: str) -> np.ndarray:
    """The organ's centre in mm, x to the right, y to the front, z upwards."""
    z, y, x = np.argwhere(labels == LABELS[organ]).mean(axis=0)
    return (geometry.matrix @ [x, y, z, 1])[:3]


def test_every_organ_is_there_and_of_a_plausible_size(cases: list[Case]) -> None:
    bounds = {
        "liver": (600, 2000),
        "spleen": (40, 350),
        "kidney_left": (70, 300),
        "kidney_right": (70, 300),
        "spine": (250, 900),
        "lesion": (5, 50),
    }
    for _, labels, geometry in cases:
        volumes = {organ: (labels == value).sum() * geometry.voxel_volume_ml for organ, value in LABELS.items()}
        assert all(bounds[organ][0] < volume < bounds[organ][1] for organ, volume in volumes.items()), volumes


def test_left_is_left_in_every_orientation(cases: list[Case]) -> None:
    assert len({geometry.orientation for _, _, geometry in cases}) >= 3
    for _, labels, geometry in cases:
        x = {organ: centre_mm(labels, geometry, organ)[0] for organ in LABELS}
        assert x["spleen"] < x["kidney_left"] + 30 < 0 < x["kidney_right"]
        assert x["kidney_left"] < x["spine"] < x["kidney_right"]
        assert x["liver"] > 15
        liver, kidney, spine = (centre_mm(labels, geometry, organ) for organ in ("liver", "kidney_right", "spine"))
        assert liver[2] > kidney[2]
        assert liver[1] > spine[1]


def test_the_lesion_lies_in_the_liver_and_stands_out(cases: list[Case]) -> None:
    for image, labels, _ in cases:
        lesion = labels == LABELS["lesion"]
        around = labels[ndimage.binary_dilation(lesion) & ~lesion]
        assert (around == LABELS["liver"]).mean() > 0.8
        assert ndimage.label(lesion)[1] == 1
        liver = image[labels == LABELS["liver"]]
        assert np.median(image[lesion]) > np.median(liver) + 2 * liver.std()


def test_organs_are_of_one_piece(cases: list[Case]) -> None:
    for _, labels, _ in cases:
        for organ in ("liver", "spleen", "kidney_left", "kidney_right", "spine"):
            sizes = np.bincount(ndimage.label(labels == LABELS[organ])[0].ravel())[1:]
            assert sizes.max() > 0.97 * sizes.sum()


def test_patients_and_scans_differ(cases: list[Case]) -> None:
    spacings = np.array([turned_spacing(geometry) for _, _, geometry in cases])
    assert (spacings[:, 0] > 1.3 * spacings[:, 1]).all()
    assert (spacings.std(axis=0) > 0.05).all()
    assert any(geometry.obliquity_degrees() > 3 for _, _, geometry in cases)
    assert any(geometry.obliquity_degrees() < 0.1 for _, _, geometry in cases)
    livers = [(labels == 1).sum() * geometry.voxel_volume_ml for _, labels, geometry in cases]
    assert np.std(livers) > 30
    assert np.std([np.median(image[labels == 1]) for image, labels, _ in cases]) > 20


def turned_spacing(geometry: Geometry) -> tuple[float, float, float]:
    return geometry.turned(*geometry.to_canonical()).spacing_mm


def test_a_scan_is_noisy_uneven_and_never_negative(cases: list[Case]) -> None:
    for image, _, geometry in cases:
        canonical = turn(image, *geometry.to_canonical())
        assert image.dtype == np.int16
        assert image.min() >= 0
        air = canonical[:, -4:, :4]
        assert air.std() > 2
        assert np.median(air) < 0.25 * np.median(image[image > np.median(image)])


def test_the_same_seed_gives_the_same_bytes_and_case_k_is_always_case_k(tmp_path: Path) -> None:
    for folder, cases in (("a", 1), ("b", 2)):
        write_phantom_dataset(tmp_path / folder, cases=cases, test_cases=1, seed=5)
    write_phantom_dataset(tmp_path / "c", cases=1, test_cases=1, seed=6)
    for name in ("imagesTr/phantom_001_0000.nii.gz", "labelsTr/phantom_001.nii.gz", "imagesTs/phantom_test_001_0000.nii.gz"):
        a, b, c = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert a == b
        assert a != c
    train, test = (
        read_volume(tmp_path / "a" / f"images{part}").array for part in ("Tr/phantom_001_0000.nii.gz", "Ts/phantom_test_001_0000.nii.gz")
    )
    assert train.shape != test.shape or (train != test).any()


def test_it_is_a_dataset_like_any_other(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    write_phantom_dataset(tmp_path, cases=2, test_cases=1, progress=lambda *step: told.append(step))
    assert told[0][1:] == (0, 3)
    assert told[-1][1:] == (3, 3)
    dataset = open_dataset(tmp_path)
    assert [case.id for case in dataset.cases] == ["phantom_001", "phantom_002"]
    assert [label.name for label in dataset.labels.labels] == list(LABELS)
    assert dataset.labels.left_right_pairs() == (("kidney_left", "kidney_right"),)
    assert json.loads((tmp_path / "dataset.json").read_text())["channel_names"] == {"0": "T2"}
    image = read_volume(tmp_path / "imagesTs" / "phantom_test_001_0000.nii.gz")
    labels = read_volume(tmp_path / "labelsTs" / "phantom_test_001.nii.gz", labels=True)
    assert image.geometry == labels.geometry
    assert set(np.unique(labels.array)) == {0, *LABELS.values()}


def test_shapes_are_distances_in_mm() -> None:
    z, y, x = np.indices((1, 1, 41), dtype=float)
    points = np.stack([x - 20, y, z])
    ball = ellipsoid(points, (0, 0, 0), (8, 8, 8))
    assert ball[0, 0] == pytest.approx(np.abs(np.arange(-20, 21)) - 8.0)
    cylinder = ellipsoid(points, (3, 0, 0), (5, 5, np.inf))
    assert cylinder[0, 0, 28] == pytest.approx(0)
    other = ellipsoid(points, (10, 0, 0), (8, 8, 8))
    assert (join(ball, other)[0, 0] <= 0).sum() == 27
    assert (meet(ball, other)[0, 0] <= 0).sum() == 7
    assert (cut(ball, other)[0, 0] < 0).sum() == 9
    assert (join(ball, other, 4) <= join(ball, other)).all()


def test_turning() -> None:
    assert rotation((0, 0, 90)) @ [1, 0, 0] == pytest.approx([0, 1, 0])
    points = np.array([0.0, 5.0, 0.0]).reshape(3, 1, 1, 1)
    assert turned(points, (0, 0, 0), (0, 0, 90)).ravel() == pytest.approx([5, 0, 0])
    assert turned(points, (0, 5, 0), (30, 20, 10)).ravel() == pytest.approx([0, 5, 0])
