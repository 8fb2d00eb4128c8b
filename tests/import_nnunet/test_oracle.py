"""A model that nnU-Net trained, imported, gives the labels and probabilities that nnU-Net itself gave."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg3d.devices import fast_bfloat16
from autoseg3d.import_nnunet import import_nnunet
from autoseg3d.io import find_scans
from autoseg3d.package import ModelPackage, open_package
from autoseg3d.prediction import PredictOptions, predict_scans
from autoseg3d.prediction.precision import Precision

CASES = ("hippocampus_001", "hippocampus_004", "hippocampus_007")


@pytest.fixture(scope="module")
def imported(shared_oracle: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    out = tmp_path_factory.mktemp("imported") / "hippocampus.a3d"
    return open_package(import_nnunet(shared_oracle / "nnunet_hippocampus" / "model", out))


@pytest.mark.parametrize(("mirror", "precision", "cases"), [(True, "fp32", CASES[:1]), (True, "bf16", CASES), (False, "auto", CASES)])
def test_labels_and_probabilities_are_nnunets(
    imported: ModelPackage,
    shared_oracle: Path,
    shared_data: Path,
    tmp_path: Path,
    mirror: bool,
    precision: Precision,
    cases: tuple[str, ...],
) -> None:
    # By default a batch of ten scans is computed in bfloat16 with mirrored copies, and in float32 without.
    if precision == "bf16" and not fast_bfloat16("cpu"):
        pytest.skip("this processor has no fast bfloat16")
    scans = find_scans(shared_data / "Hippocampus" / "imagesTr", num_channels=1)
    chosen = [scan for scan in scans if scan.id in cases]
    options = PredictOptions(mirror=mirror, precision=precision, device="cpu", save_probabilities=True)
    results = predict_scans(chosen, imported, tmp_path, options)
    assert [result.case for result in results] == list(cases)
    truth = shared_oracle / "nnunet_hippocampus" / ("mirrored" if mirror else "plain")
    for case in cases:
        ours, theirs = (np.asarray(nibabel.load(folder / f"{case}.nii.gz").dataobj) for folder in (tmp_path, truth))
        for label in (1, 2):
            a, b = ours == label, theirs == label
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) >= 0.999
        probabilities = np.load(tmp_path / f"{case}.npz")["probabilities"]
        difference = np.abs(probabilities - np.load(truth / f"{case}.npz")["probabilities"])
        # bfloat16 is chosen by its labels; of its probabilities single ones may differ more.
        assert np.quantile(difference, 0.9999 if precision == "bf16" else 1) < 5e-3
