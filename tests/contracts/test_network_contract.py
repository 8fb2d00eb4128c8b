"""The contract of a network: one law, every registered architecture, many kinds of plans."""

from pathlib import Path

import pytest
import torch
from network_plans import kinds, network_plan
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoseg3d.errors import UsageError
from autoseg3d.losses import DeepSupervisionLoss
from autoseg3d.networks import architecture_names, build
from planners.contract import Triple
from planners.labels import label_table
from planners.plan import NetworkPlan

CLASSES = 3
SUBJECTS = [(architecture, kind) for architecture in architecture_names() for kind in kinds("unet")]
every = pytest.mark.parametrize(("architecture", "kind"), SUBJECTS, ids=[f"{a}-{k}".replace(" ", "_") for a, k in SUBJECTS])


def subject(architecture: str, kind: str, *, seed: int = 0) -> tuple[Triple, NetworkPlan, nn.Module]:
    patch, plan = kinds(architecture)[kind]
    return patch, plan, build(plan, 2, CLASSES, seed=seed)


def image(patch: Triple, batch: int = 2) -> Tensor:
    return torch.randn(batch, 2, *patch, generator=torch.Generator().manual_seed(0))


@every
def test_training_gives_all_resolutions_and_evaluation_the_finest(architecture: str, kind: str) -> None:
    patch, plan, network = subject(architecture, kind)
    strides = [torch.tensor([s.stride for s in plan.stages[: i + 1]]).prod(0).tolist() for i in range(len(plan.stages) - 1)]
    wanted = [(2, CLASSES, *(p // s for p, s in zip(patch, stride, strict=True))) for stride in strides]
    outputs = network(image(patch))
    assert isinstance(outputs, tuple)
    assert [tuple(y.shape) for y in outputs] == (wanted if plan.deep_supervision else wanted[:1])
    with torch.no_grad():
        evaluated = network.eval()(image(patch))
    assert isinstance(evaluated, tuple)
    assert [tuple(y.shape) for y in evaluated] == wanted[:1]
    torch.testing.assert_close(evaluated[0], outputs[0].detach(), rtol=1e-4, atol=1e-5)


@every
def test_the_head_of_the_features_is_the_finest_output(architecture: str, kind: str) -> None:
    patch, _, network = subject(architecture, kind)
    network.eval()
    x = image(patch)
    with torch.no_grad():
        features = network.features(x)  # type: ignore[operator]
        assert (features.shape[0], *features.shape[2:]) == (2, *patch)
        assert torch.equal(network.head(features), network(x)[0])  # type: ignore[operator]
        # It is linear and sees one voxel at a time, so that features may be averaged instead of logits.
        mean = network.head(features.mean(0, keepdim=True))  # type: ignore[operator]
        torch.testing.assert_close(mean, network(x)[0].mean(0, keepdim=True), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(network.head(features[..., :1]), network(x)[0][..., :1], rtol=1e-3, atol=1e-4)  # type: ignore[operator]


@every
def test_the_seed_decides_the_weights(architecture: str, kind: str) -> None:
    first, again, other = (subject(architecture, kind, seed=seed)[2].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@every
def test_sizes_off_the_stride_are_refused(architecture: str, kind: str) -> None:
    patch, plan, network = subject(architecture, kind)
    assert network.stride_zyx == plan.total_stride
    with pytest.raises(UsageError, match="divisible by"):
        network(torch.zeros(1, 2, *patch[:2], patch[2] + 1))
    with pytest.raises(UsageError, match="batch, 2, Z, Y, X"):
        network(torch.zeros(1, 1, *patch))


@every
def test_a_few_bfloat16_steps_are_finite_and_lower_the_loss(architecture: str, kind: str) -> None:
    patch, plan, network = subject(architecture, kind)
    table = label_table({"background": 0, "a": 1, "b": 2})
    outputs = len(plan.stages) - 1 if plan.deep_supervision else 1
    loss, x = DeepSupervisionLoss(table, batch_dice=True, num_outputs=outputs), image(patch)
    target = (x[:, 0] > 0).to(torch.int16) + (x[:, 1] > 0.5).to(torch.int16)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    values = []
    for _ in range(6):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(x)
        value = loss(logits, target)
        value.backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < values[0]


@every
def test_weights_survive_safetensors(architecture: str, kind: str, tmp_path: Path) -> None:
    patch, _, network = subject(architecture, kind, seed=1)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    other = subject(architecture, kind, seed=2)[2]
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    with torch.no_grad():
        assert torch.equal(other.eval()(image(patch))[0], network.eval()(image(patch))[0])


@pytest.mark.parametrize("architecture", architecture_names())
@pytest.mark.parametrize("kind", ["anisotropic", "2d"])
def test_it_can_be_exported(architecture: str, kind: str) -> None:
    patch, _, network = subject(architecture, kind)
    x = image(patch)
    with torch.no_grad():
        exported = torch.export.export(network.eval(), (x,))
        torch.testing.assert_close(exported.module()(x)[0], network(x)[0])


@pytest.mark.parametrize("architecture", architecture_names())
def test_a_bottleneck_of_one_voxel_trains(architecture: str) -> None:
    network = build(network_plan(architecture, [2, 3, 4]), 1, 2)
    outputs = network(torch.randn(1, 1, 4, 4, 4))
    sum(y.sum() for y in outputs).backward()
    assert all(torch.isfinite(y).all() for y in outputs)
