"""Entry points of other packages: found, loaded one by one, and refused by name where two claim one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from installed_plugins import TINY, declare, install_tiny

from autoseg3d import plugins
from autoseg3d.cost import trace_cost
from autoseg3d.errors import UsageError
from autoseg3d.networks import ARCHITECTURES, architecture_names, build
from autoseg3d.networks.inference import optimise_for_inference
from planners.budget import Budget, PlanningError
from planners.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics
from planners.labels import label_table
from planners.plan import NetworkPlan, Plan, Stage

MIB = 2**20


def network(name: str) -> NetworkPlan:
    stages = tuple(Stage(features=4, kernel=(3, 3, 3), stride=(s, s, s), blocks=1) for s in (1, 2))
    return NetworkPlan(architecture=name, stages=stages, decoder_blocks=(1,))


def fingerprint() -> Fingerprint:
    shape, spacing = (70, 80, 90), (1.0, 1.0, 1.0)
    case = CaseFingerprint(id="a", shape=shape, shape_after_crop=shape, spacing_mm=spacing, relative_size_after_crop=1)
    statistics = IntensityStatistics(mean=0, median=0, std=1, min=-1, max=1, percentile_00_5=-1, percentile_99_5=1)
    return Fingerprint(
        dataset_name="test",
        channel_names=("MRI",),
        labels=label_table({"background": 0, "a": 1, "b": 2}),
        num_training=1,
        cases=(case,),
        intensities=(statistics,),
        median_relative_size_after_crop=1,
    )


def planned(memory: int = 4 * 2**30) -> Plan:
    planner = plugins.find(plugins.PLANNERS, "tiny", own={}, field="planner")
    plan = planner(fingerprint(), Budget(memory_bytes=memory, device="cpu"), trace_cost)
    assert isinstance(plan, Plan)
    return plan


def test_a_second_package_plans_and_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_tiny(tmp_path, monkeypatch)
    assert "tiny" in architecture_names()
    configuration = planned().configurations["3d_fullres"]
    assert configuration.patch_size == (64, 64, 64)
    module = build(configuration.network, 1, 3, seed=1)
    first, again = (build(configuration.network, 1, 3, seed=1).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    x = torch.randn(1, 1, 8, 8, 8)
    assert [tuple(y.shape) for y in module(x)] == [(1, 3, 8, 8, 8)]
    with torch.no_grad():
        wanted = module.eval()(x)[0]
    torch.testing.assert_close(optimise_for_inference(module)(x)[0], wanted, rtol=1e-4, atol=1e-5)


def test_its_cost_is_traced_like_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_tiny(tmp_path, monkeypatch)
    plan = planned().configurations["3d_fullres"].network
    cost = trace_cost(plan, patch_size=(8, 8, 8), batch_size=2, in_channels=1, num_classes=3, device="cpu")
    # Convolutions: 27·1·4 at 8³, 27·4·8 at 4³, 8·4 at 4³, 4·3 at 8³; a multiply-add counts two.
    assert cost.forward_flops == 2 * 2 * (512 * (27 * 4 + 4 * 3) + 64 * (27 * 4 * 8 + 8 * 4))
    assert planned(4 * MIB).configurations["3d_fullres"].patch_size < (64, 64, 64)
    with pytest.raises(PlanningError, match="memory_bytes"):
        planned(1000)


def test_a_real_installation_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hatchling")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--target", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *options, str(TINY)], capture_output=True, text=True)
    if "No module named pip" in done.stderr:
        pytest.skip("this environment has no pip")
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "autoseg3d_tiny", raising=False)
    (plugin,) = [p for p in plugins.installed(plugins.NETWORKS) if p.name == "tiny"]
    assert (plugin.target, plugin.package) == ("autoseg3d_tiny:TinyNetwork", "autoseg3d-tiny 1.2")
    assert build(network("tiny"), 1, 2).stride_zyx == (2, 2, 2)


def test_nothing_is_imported_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_tiny(tmp_path, monkeypatch)
    assert "tiny" in architecture_names()
    build(network("unet"), 1, 2)
    assert "autoseg3d_tiny" not in sys.modules


BROKEN = {
    "raises": ("broken_raises:thing", "raise RuntimeError('no licence')", "RuntimeError: no licence"),
    "missing-module": ("broken_absent:thing", None, "ModuleNotFoundError"),
    "missing-attribute": ("broken_attribute:thing", "other = 1", "AttributeError"),
    "not-callable": ("broken_number:thing", "thing = 3", "is a int, which cannot be called"),
    "exits": ("broken_exits:thing", "import sys\nsys.exit(3)", "SystemExit: 3"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_named_and_harms_no_other(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, source, message = BROKEN[kind]
    if source is not None:
        (tmp_path / f"{target.partition(':')[0]}.py").write_text(source)
    declare(tmp_path, "bad-package", {plugins.NETWORKS: {"bad": target}})
    install_tiny(tmp_path / "good", monkeypatch)
    monkeypatch.syspath_prepend(tmp_path)
    assert build(network("unet"), 1, 2) is not None
    assert build(network("tiny"), 1, 2) is not None
    with pytest.raises(UsageError) as caught:
        build(network("bad"), 1, 2)
    assert caught.value.code == "E_PLUGIN"
    assert "bad-package 1.0" in str(caught.value)
    assert message in str(caught.value)


def test_a_network_that_breaks_the_contract_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halfdone.py").write_text("from torch import nn\ndef make(network, i, o):\n    return nn.Conv3d(i, o, 1)\n")
    declare(tmp_path, "half-done", {plugins.NETWORKS: {"half": "halfdone:make"}})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"stride_zyx, head and features; got Conv3d without \['stride_zyx', 'head', 'features'\]"):
        build(network("half"), 1, 2)


def test_a_name_of_ours_cannot_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(tmp_path, "taker", {plugins.NETWORKS: {"vnet": "autoseg3d_tiny:TinyNetwork"}})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"'vnet' is claimed by autoseg3d and by taker 1\.0"):
        build(network("vnet"), 1, 2)
    assert build(network("unet"), 1, 2) is not None


def test_two_packages_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_tiny(tmp_path, monkeypatch)
    declare(tmp_path, "other", {plugins.NETWORKS: {"tiny": "elsewhere:Network", "alone": "autoseg3d_tiny:TinyNetwork"}})
    with pytest.raises(UsageError, match=r"'tiny' is claimed by autoseg3d-tiny 1\.2 and by other 1\.0"):
        build(network("tiny"), 1, 2)
    assert build(network("alone"), 1, 2) is not None


def test_our_own_entry_points_are_not_a_second_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {name: f"{builder.__module__}:{builder.__qualname__}" for name, builder in ARCHITECTURES.items()}
    declare(tmp_path, "another-name-of-autoseg3d", {plugins.NETWORKS: rows})
    monkeypatch.syspath_prepend(tmp_path)
    assert build(network("unet"), 1, 2) is not None
    assert architecture_names()[:3] == ("unet", "resenc", "vnet")
