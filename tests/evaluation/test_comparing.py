"""compare: from folders of label maps, evaluations and tables, the same result."""

from pathlib import Path

import numpy as np
import pytest

from autoseg3d.errors import Autoseg3dError, ReadError, UsageError
from autoseg3d.evaluation import Comparison, compare, evaluate_folder
from autoseg3d.evaluation.comparing import read_scores_csv
from autoseg3d.files import read_contract
from autoseg3d.geometry import Geometry
from autoseg3d.io import write_labels

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def _folder(folder: Path, cases: int, *, missing: int = 0, absent: int | None = None) -> Path:
    """Label maps of balls, the first `missing` slices of each erased; case `absent` is all background."""
    z, y, x = np.indices((10, 12, 14))
    for i in range(cases):
        ball = (((z - 5) ** 2 + (y - 6) ** 2 + (x - 6) ** 2) <= 9 + i).astype(np.uint8)
        ball[: 3 + missing] = 0
        if i == absent:
            ball[:] = 0
        write_labels(folder / f"case_{i}.nii.gz", ball, Geometry.from_affine(ball.shape, AFFINE))
    return folder


@pytest.fixture
def three(tmp_path: Path) -> tuple[Path, Path, Path]:
    return _folder(tmp_path / "ours", 7, missing=1), _folder(tmp_path / "theirs", 6, missing=2, absent=3), _folder(tmp_path / "truth", 7)


def test_folders_evaluations_and_tables_give_one_result(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    ours, theirs, truth = three
    direct = compare(ours, theirs, reference=truth, out=tmp_path / "out")
    scores = [evaluate_folder(folder, truth, out=tmp_path / f"{folder.name}_scores") for folder in (ours, theirs)]
    evaluated = compare(tmp_path / "ours_scores", tmp_path / "theirs_scores" / "scores.json", names=("ours", "theirs"))
    table = compare(tmp_path / "ours_scores" / "scores.csv", tmp_path / "theirs_scores" / "scores.csv", names=("ours", "theirs"))
    assert direct == evaluated
    assert table.overall == direct.overall
    assert table.only_a == {"case_6": "not there"}
    assert "no prediction for this case" in direct.only_a["case_6"]
    assert read_scores_csv(tmp_path / "theirs_scores" / "scores.csv").rows == scores[1].rows
    assert read_contract(tmp_path / "out" / "compare.json", Comparison) == direct
    heads, *lines = (tmp_path / "out" / "compare.csv").read_text().splitlines()
    assert heads.startswith("measure,label_name,cases,infinite,mean_a")
    assert lines[0].startswith("dice,mean of labels,6,0,")
    assert len((tmp_path / "out" / "cases.csv").read_text().splitlines()) == 7


def test_names_are_where_the_paths_differ(three: tuple[Path, Path, Path]) -> None:
    ours, theirs, truth = three
    found = compare(ours, theirs, reference=truth)
    assert (found.name_a, found.name_b) == ("ours", "theirs")


def test_label_maps_need_a_reference_and_tables_must_be_ours(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    ours, theirs, _ = three
    with pytest.raises(UsageError, match="--reference"):
        compare(ours, theirs)
    (tmp_path / "a.csv").write_text("case,dice\nx,0.5\n")
    with pytest.raises(ReadError, match="line 2"):
        compare(tmp_path / "a.csv", tmp_path / "a.csv")
    with pytest.raises(Autoseg3dError):
        compare(tmp_path / "nothing.csv", tmp_path / "nothing.csv")
