"""A network compiled by OpenVINO gives torch's features and labels, and its absence is told."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from tiny import case, configuration, noise, plan, random_network

from autoseg3d.errors import UsageError
from autoseg3d.prediction import Predictor
from autoseg3d.prediction.openvino_network import OpenVinoNetwork, need_openvino

installed = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the extra openvino is not installed")


@installed
@pytest.mark.parametrize("architecture", ["unet", "resenc", "vnet"])
def test_features_and_logits_are_torchs(architecture: str) -> None:
    chosen = configuration()
    made = plan(chosen.model_copy(update={"network": chosen.network.model_copy(update={"architecture": architecture})}))
    network = random_network(made)
    compiled = OpenVinoNetwork(network, dtype=torch.float32, channels=1, patch=(8, 8, 8))
    x = torch.randn((2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(compiled.features(x), network.features(x), rtol=1e-3, atol=1e-3)  # type: ignore[operator]
        torch.testing.assert_close(compiled(x)[0], network(x)[0], rtol=1e-3, atol=1e-3)


@installed
@pytest.mark.parametrize("slicewise", [False, True])
def test_labels_of_a_whole_scan_are_torchs(slicewise: bool) -> None:
    name = "2d" if slicewise else "3d_fullres"
    made = plan({name: configuration((1, 8, 8), slicewise=True) if slicewise else configuration()})
    networks, scan = [random_network(made, name, seed) for seed in (0, 1)], case(noise((12, 17, 15)))
    found = [Predictor(made, name, networks, device="cpu", precision="fp32", backend=b).predict(scan).labels for b in ("torch", "openvino")]
    assert (found[0] == found[1]).mean() > 0.9995
    assert len(set(found[0].ravel())) > 1


@installed
def test_it_computes_on_the_processor_only() -> None:
    with pytest.raises(UsageError, match="backend"):
        Predictor(plan(), "3d_fullres", [random_network(plan())], device=torch.device("cuda"), backend="openvino")


def test_without_the_extra_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "autoseg3d\[openvino\]"'):
        need_openvino()
