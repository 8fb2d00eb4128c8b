"""The golden scan is found right, and what would be wrong with it is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg3d.doctor import examine_prediction, worst
from autoseg3d.doctor.golden import ORIENTATIONS, golden_case, golden_truth, write_golden_package
from autoseg3d.doctor.prediction import EXPECTED_VOXELS, compare
from autoseg3d.errors import UsageError
from autoseg3d.networks.norm import InstanceNorm


def test_this_machine_finds_the_right_labels(tmp_path: Path) -> None:
    findings = examine_prediction(tmp_path, "cpu")
    assert [finding.said for finding in findings if finding.verdict != "fine"] == []
    assert "fp32" in findings[0].what


def test_the_model_is_small(tmp_path: Path) -> None:
    write_golden_package(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 100_000


def test_every_orientation_is_another_file_of_the_same_patient() -> None:
    cases = [golden_case(orientation) for orientation in ORIENTATIONS]
    assert len({geometry.orientation for _, _, geometry in cases}) == len(ORIENTATIONS)
    for _, truth, geometry in cases:
        centre = np.argwhere(truth == 2).mean(axis=0)[::-1] - np.argwhere(truth == 1).mean(axis=0)[::-1]
        x, _, _ = geometry.matrix[:3, :3] @ centre
        assert x > 20, "label 2 lies more than 20 mm to the patient's right of label 1"


def answer() -> np.ndarray:
    """The truth, with as many voxels about it as the network takes for part of it."""
    labels = golden_truth()
    for label, count in enumerate(EXPECTED_VOXELS, start=1):
        missing = count - int((labels == label).sum())
        labels.flat[np.flatnonzero(labels == 0)[:missing]] = label
    return labels


def test_a_right_answer_is_fine() -> None:
    assert compare(answer(), golden_truth()) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda a: np.array([0, 2, 1])[a], "left and right are swapped"),
        (lambda a: a[:, :, ::-1], "left and right are swapped"),
        (lambda a: np.roll(a, 6, axis=1), "not where it should be"),
        (lambda a: np.zeros_like(a), "not where it should be"),
        (lambda a: np.where(np.arange(a.shape[0])[:, None, None] == 0, 0, a), "computes something else"),
    ],
)
def test_every_wrong_answer_is_noticed(spoil: object, said: str) -> None:
    troubles = compare(spoil(answer()), golden_truth())  # type: ignore[operator]
    assert any(said in trouble for trouble in troubles), troubles


def test_a_machine_that_computes_wrongly_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = InstanceNorm.forward

    def wrong(module: InstanceNorm, x: torch.Tensor, *, activated: bool = False) -> torch.Tensor:
        return right(module, x, activated=activated).roll(4, -2)

    monkeypatch.setattr(InstanceNorm, "forward", wrong)
    findings = examine_prediction(tmp_path, "cpu")
    assert worst(findings) == "fault"
    assert "Do not use this installation" in findings[0].remedy


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not on this machine"):
        examine_prediction(tmp_path, "mps")
