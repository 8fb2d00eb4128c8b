"""An exported network gives torch's own logits for any batch, and says what goes in and what comes out."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "prediction"))
from tiny import REGIONS, configuration, plan, write_package

from autoseg3d.errors import ModelError, UsageError
from autoseg3d.export import export_network, exporting
from autoseg3d.package import ModelPackage, open_package
from autoseg3d.prediction.predictor import load_network
from planners.plan import Configuration, Plan


def _architecture(name: str, changed: Configuration | None = None) -> Plan:
    chosen = changed or configuration()
    return plan(chosen.model_copy(update={"network": chosen.network.model_copy(update={"architecture": name})}))


onnx_installed = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="the extra onnx is not installed")


def _mean_logits(package: ModelPackage, image: torch.Tensor, name: str = "3d_fullres", folds: tuple[str, ...] = ("0", "1")) -> np.ndarray:
    with torch.no_grad():
        found = [load_network(package, name, fold)(image)[0] for fold in folds]
    return torch.stack(found).mean(dim=0).numpy()


def _run_onnx(path: Path, image: torch.Tensor) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"image": image.numpy()})[0])


@onnx_installed
@pytest.mark.parametrize("architecture", ["unet", "resenc", "vnet"])
def test_onnx_gives_torchs_mean_logits_for_any_batch(tmp_path: Path, architecture: str) -> None:
    package = open_package(write_package(tmp_path / "model", _architecture(architecture)))
    done = export_network(package, tmp_path / "net.onnx", format="onnx")
    assert done.folds == ("0", "1")
    assert done.difference <= exporting.TOLERANCE
    for batch in (1, 3):
        image = torch.randn((batch, 1, 8, 8, 8), generator=torch.Generator().manual_seed(batch))
        np.testing.assert_allclose(_run_onnx(done.path, image), _mean_logits(package, image), rtol=1e-3, atol=1e-3)


@onnx_installed
def test_a_2d_network_with_regions_and_one_fold_goes_out_as_well(tmp_path: Path) -> None:
    flat = plan({"2d": configuration((1, 8, 8), slicewise=True)}, labels=REGIONS)
    package = open_package(write_package(tmp_path / "model", flat))
    done = export_network(package, tmp_path / "net.onnx", format="onnx", folds=["1"])
    image = torch.randn((2, 1, 1, 8, 8))
    np.testing.assert_allclose(_run_onnx(done.path, image), _mean_logits(package, image, "2d", ("1",)), rtol=1e-3, atol=1e-3)


def test_an_exported_program_gives_torchs_logits_and_both_formats_describe_themselves_alike(tmp_path: Path) -> None:
    package = open_package(write_package(tmp_path / "model", plan()))
    done = export_network(package, tmp_path / "net.pt2", format="torch-export", folds=["0"])
    texts = dict.fromkeys(("autoseg3d.plan", "autoseg3d.output", "autoseg3d.input", "autoseg3d.model_sha256", "autoseg3d.folds"), "")
    program = torch.export.load(done.path, extra_files=texts)
    image = torch.randn((5, 1, 8, 8, 8))
    np.testing.assert_allclose(program.module()(image).numpy(), _mean_logits(package, image, folds=("0",)), rtol=1e-3, atol=1e-3)
    decoded = {name: value.decode() if isinstance(value, bytes) else value for name, value in texts.items()}
    assert Plan.model_validate_json(decoded["autoseg3d.plan"]) == package.plan
    assert json.loads(decoded["autoseg3d.output"])["classes"] == ["background", "left", "right"]
    assert json.loads(decoded["autoseg3d.folds"]) == ["0"]
    onnx = pytest.importorskip("onnx")
    export_network(package, tmp_path / "net.onnx", format="onnx", folds=["0"])
    stored = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "net.onnx")).metadata_props}
    assert {name: stored[name] for name in decoded} == decoded


def test_a_cascade_names_the_channels_of_the_stage_before(tmp_path: Path) -> None:
    cascade = plan({"3d_lowres": configuration(), "3d_fullres": configuration(previous_stage="3d_lowres")})
    package = open_package(write_package(tmp_path / "model", cascade))
    done = export_network(package, tmp_path / "net.pt2", format="torch-export", configuration="3d_fullres")
    texts = {"autoseg3d.input": ""}
    torch.export.load(done.path, extra_files=texts)
    described = json.loads(texts["autoseg3d.input"])
    assert described["channels"] == ["image", "left", "right"]
    assert described["shape"] == ["any", 3, 8, 8, 8]


def test_a_file_that_gives_other_logits_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = open_package(write_package(tmp_path / "model", plan()))
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="E_EXPORT"):
        export_network(package, tmp_path / "net.pt2", format="torch-export")
    assert not list(tmp_path.glob("*.pt2"))


def test_an_unknown_format_and_a_missing_extra_are_told(tmp_path: Path) -> None:
    package = open_package(write_package(tmp_path / "model", plan()))
    with pytest.raises(UsageError, match="torch-export"):
        export_network(package, tmp_path / "net", format="caffe")
    with pytest.raises(UsageError, match=r'pip install "autoseg3d\[onnx\]"'):
        exporting.need_extra("onnx", "a_module_that_nobody_has")
