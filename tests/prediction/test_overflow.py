"""A network whose numbers overflow is told by name for each scan, wherever they do; it never passes for background."""

from pathlib import Path

import pytest
import torch
from tiny import LABELS, REGIONS, fingerprint, noise, plan, random_network, write_scan

from autoseg3d.io import find_scans
from autoseg3d.package import add_fold, create_package
from autoseg3d.prediction import PredictOptions, exit_code, predict_scans
from planners.labels import LabelTable, label_table

# More channels than the tiny network has features: then features are averaged, and the head comes after all else.
MANY = label_table({"background": 0, **{f"organ {k}": k for k in range(1, 9)}})
MANY_REGIONS = label_table({"background": 0, **{f"organ {k}": [k, 9] for k in range(1, 9)}, "core": 9}, [*range(1, 9), 9])


def overflowing_package(folder: Path, labels: LabelTable, layer: str) -> Path:
    """A package with finite weights, of which those of one layer are so large that its output is not."""
    made = plan(labels=labels)
    create_package(folder, made, fingerprint(labels))
    weights = random_network(made).state_dict()
    with torch.no_grad():
        weights[layer].copy_(torch.sign(weights[layer]) * 3e38)
    add_fold(folder, configuration="3d_fullres", fold="0", weights=weights)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
@pytest.mark.parametrize("layer", ["decoder.heads.0.weight", "encoder.stages.0.0.norm.weight"])
@pytest.mark.parametrize("labels", [LABELS, REGIONS, MANY, MANY_REGIONS], ids=["classes", "regions", "many classes", "many regions"])
def test_a_network_that_overflows_is_refused_by_name(tmp_path: Path, labels: LabelTable, layer: str, precision: str) -> None:
    for i in range(2):
        write_scan(tmp_path / "scans" / f"scan_{i}.nii.gz", noise((12, 14, 16), seed=i))
    options = PredictOptions(device="cpu", precision=precision, mirror=False)  # type: ignore[arg-type]
    model = overflowing_package(tmp_path / "model", labels, layer)
    results = predict_scans(find_scans(tmp_path / "scans", num_channels=1), model, tmp_path / "out", options)
    assert [result.code for result in results] == ["E_NETWORK_NONFINITE"] * 2
    assert all(result.remedy and "--precision fp32" in result.remedy for result in results)
    assert exit_code(results) == 3
    assert not list((tmp_path / "out").glob("*.nii.gz"))
