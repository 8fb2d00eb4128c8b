"""The PNG files themselves: colours where they belong, to scale, the same bytes twice, no pyplot."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from autoseg3d.geometry import Geometry
from autoseg3d.pictures import COLOURS, Picture, mosaic, overview

SHAPE = (20, 40, 60)
GEOMETRY = Geometry.from_affine(SHAPE, np.diag([1.0, 1.5, 4.0, 1.0]))


def picture(*, prediction: bool = False, title: str = "a case") -> Picture:
    """A dark scan with a label on the patient's right (high x), and perhaps a prediction that misses half of it."""
    rng = np.random.default_rng(0)
    image = rng.normal(100, 5, size=SHAPE).astype(np.float32)
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[5:15, 10:30, 40:56] = 1
    predicted = labels.copy()
    predicted[5:15, 10:20] = 0
    return Picture(image, GEOMETRY, labels, predicted if prediction else None, title)


def pixels_of(path: Path, colour: str, *, tolerance: float = 0.12) -> np.ndarray:
    """Where the PNG is nearly of one colour: (rows, columns)."""
    return np.argwhere(np.abs(imread(path)[..., :3] - to_rgb(colour)).max(axis=-1) < tolerance)


def outline(path: Path) -> np.ndarray:
    """The pixels of label 1's outline, without the legend at the foot."""
    found = pixels_of(path, COLOURS[0])
    return found[found[:, 0] < 0.85 * imread(path).shape[0]]


def test_the_right_is_on_the_left_unless_asked_otherwise(tmp_path: Path) -> None:
    overview(picture(), tmp_path / "r.png", zoom=False)
    overview(picture(), tmp_path / "n.png", zoom=False, convention="neurological")
    width = imread(tmp_path / "r.png").shape[1]
    first_panel = 60 / (60 + 60 + 60) * width  # axial and coronal are 60 mm wide, sagittal too
    left, right = (outline(tmp_path / name) for name in ("r.png", "n.png"))
    assert left[left[:, 1] < first_panel][:, 1].mean() < 0.45 * first_panel
    assert right[right[:, 1] < first_panel][:, 1].mean() > 0.55 * first_panel


def test_a_cube_of_equal_sides_in_mm_is_square_in_the_picture(tmp_path: Path) -> None:
    geometry = Geometry.from_affine((12, 30, 60), np.diag([1.0, 2.0, 5.0, 1.0]))
    labels = np.zeros(geometry.shape, dtype=np.int16)
    labels[3:9, 7:22, 15:45] = 1  # 30 mm along every axis
    overview(Picture(np.zeros(geometry.shape, np.float32), geometry, labels), tmp_path / "c.png", zoom=False)
    found = outline(tmp_path / "c.png")
    width = imread(tmp_path / "c.png").shape[1]
    for panel in range(3):
        own = found[(found[:, 1] >= panel * width / 3) & (found[:, 1] < (panel + 1) * width / 3)]
        height_px, width_px = np.ptp(own, axis=0)
        assert height_px == pytest.approx(width_px, abs=4)
        assert height_px > 100


def test_differences_are_tinted(tmp_path: Path) -> None:
    overview(picture(prediction=True), tmp_path / "p.png")
    overview(picture(), tmp_path / "t.png")
    tinted, plain = (imread(tmp_path / name)[..., :3] for name in ("p.png", "t.png"))

    def magenta(array: np.ndarray) -> int:
        return int(((array[..., 0] - array[..., 1] > 0.25) & (array[..., 2] - array[..., 1] > 0.25)).sum())

    assert magenta(tinted) > 5000
    assert magenta(plain) < 200


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        overview(picture(prediction=True), tmp_path / name, names={1: "liver"})
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.png", "2.png"]


def test_scans_without_labels_and_odd_titles(tmp_path: Path) -> None:
    plain = picture()
    overview(Picture(plain.image, plain.geometry, title="costs $5 or $6_x^2"), tmp_path / "plain.png", names={1: "a$b$c"})
    overview(Picture(plain.image, plain.geometry, prediction=plain.labels), tmp_path / "only.png", names={1: "a$b$c"})
    assert not len(outline(tmp_path / "plain.png"))
    assert len(outline(tmp_path / "only.png")) > 100


def test_many_labels_have_colours_and_names(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, dtype=np.int16)
    for value in range(1, 21):
        labels[2:18, 2:38, 2 * value : 2 * value + 2] = value
    overview(
        Picture(np.zeros(SHAPE, np.float32), GEOMETRY, labels),
        tmp_path / "many.png",
        names={value: f"region {value}" for value in range(1, 21)},
    )
    for colour in COLOURS:
        assert len(pixels_of(tmp_path / "many.png", colour)) > 20


def test_a_colour_belongs_to_a_name_and_not_to_what_is_visible(tmp_path: Path) -> None:
    names = {5: "other", 1: "liver"}
    overview(picture(), tmp_path / "named.png", names=names)
    assert not len(outline(tmp_path / "named.png"))
    assert len(pixels_of(tmp_path / "named.png", COLOURS[1])) > 100


def test_a_mosaic_takes_a_generator_and_one_tile_each(tmp_path: Path) -> None:
    mosaic((picture(title=f"case {k}") for k in range(7)), tmp_path / "m.png", columns=3, names={1: "liver"})
    sheet = imread(tmp_path / "m.png")
    found = outline(tmp_path / "m.png")
    columns = np.unique(found[:, 1] * 3 // sheet.shape[1])
    assert columns.tolist() == [0, 1, 2]
    assert sheet.shape[1] == 1320
    with pytest.raises(ValueError, match="at least one"):
        mosaic([], tmp_path / "none.png")


def test_pyplot_stays_out() -> None:
    code = "import autoseg3d.pictures, sys; print('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_real_scans_of_four_kinds(shared_data: Path, tmp_path: Path) -> None:
    from autoseg3d.io import read_volume

    cases = {"Hippocampus": "hippocampus_001", "OpenKBP_HN": "HN_001", "ACDC_small": "patient001_frame01"}
    for dataset, case in cases.items():
        image = read_volume(shared_data / dataset / "imagesTr" / f"{case}_0000.nii.gz")
        labels = read_volume(shared_data / dataset / "labelsTr" / f"{case}.nii.gz", labels=True).array
        overview(Picture(image.array, image.geometry, labels, title=case), tmp_path / f"{case}.png")
        drawn = imread(tmp_path / f"{case}.png")
        assert drawn.shape[1] == 1320
        assert drawn[..., :3].std() > 0.1


def test_a_name_in_jpg_gives_a_jpeg(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.jpg"):
        overview(picture(prediction=True), tmp_path / name)
    assert (tmp_path / "a.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
