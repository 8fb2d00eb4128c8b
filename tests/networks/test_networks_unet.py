"""The U-Nets against a second, functional writing of nnU-Net's layout that knows nothing but names and shapes of weights."""

from collections.abc import Mapping

import pytest
import torch
from network_plans import kinds, network_plan
from torch import Tensor
from torch.nn import functional

from autoseg3d.networks import build
from autoseg3d.networks.resenc import ResidualBlock, average_pool
from planners.plan import NetworkPlan

Weights = Mapping[str, Tensor]


def unit(w: Weights, name: str, x: Tensor, *, stride: tuple[int, int, int] = (1, 1, 1), activate: bool = True) -> Tensor:
    kernel = w[f"{name}.conv.weight"]
    padding = [k // 2 for k in kernel.shape[2:]]
    x = functional.conv3d(x, kernel, w.get(f"{name}.conv.bias"), stride, padding)
    x = functional.instance_norm(x, weight=w[f"{name}.norm.weight"], bias=w[f"{name}.norm.bias"], eps=1e-5)
    return functional.leaky_relu(x, 0.01) if activate else x


def residual(w: Weights, name: str, x: Tensor, *, stride: tuple[int, int, int]) -> Tensor:
    y = unit(w, f"{name}.conv2", unit(w, f"{name}.conv1", x, stride=stride), activate=False)
    shortcut = functional.avg_pool3d(x, stride, stride)
    if f"{name}.project.conv.weight" in w:
        shortcut = unit(w, f"{name}.project", shortcut, activate=False)
    return functional.leaky_relu(y + shortcut, 0.01)


def reference(plan: NetworkPlan, w: Weights, x: Tensor) -> list[Tensor]:
    """Logits finest first, as A.5 of the rules has it: encoder, then upsample, join, refine, head."""
    skips, plain = [], plan.architecture == "unet"
    if not plain:
        x = unit(w, "encoder.stem", x)
    for s, stage in enumerate(plan.stages):
        for b in range(stage.blocks):
            block = unit if plain else residual
            x = block(w, f"encoder.stages.{s}.{b}", x, stride=stage.stride if b == 0 else (1, 1, 1))
        skips.append(x)
    outputs = []
    for d, s in enumerate(range(len(plan.stages) - 2, -1, -1)):
        stride = plan.stages[s + 1].stride
        up = functional.conv_transpose3d(x, w[f"decoder.upsamplings.{d}.weight"], w[f"decoder.upsamplings.{d}.bias"], stride)
        x = torch.cat((up, skips[s]), 1)
        for b in range(plan.decoder_blocks[s]):
            x = unit(w, f"decoder.stages.{d}.{b}", x)
        outputs.append(functional.conv3d(x, w[f"decoder.heads.{d}.weight"], w[f"decoder.heads.{d}.bias"]))
    return outputs[::-1]


@pytest.mark.parametrize("architecture", ["unet", "resenc"])
@pytest.mark.parametrize("kind", ["isotropic", "anisotropic", "2d", "two stages"])
def test_outputs_are_those_of_the_reference(architecture: str, kind: str) -> None:
    patch, plan = kinds(architecture)[kind]
    network = build(plan, 2, 3, seed=5)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():  # zeros and ones would hide a mistake
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    x = torch.randn(2, 2, *patch, generator=generator)
    outputs, wanted = network(x), reference(plan, network.state_dict(), x)
    assert len(outputs) == len(wanted)
    for y, z in zip(outputs, wanted, strict=True):
        torch.testing.assert_close(y, z, rtol=1e-3, atol=1e-4)


def test_parameters_counted_by_hand() -> None:
    plan = network_plan("unet", [4, 8], blocks=[1, 2], decoder_blocks=[2])
    encoder = (27 * 1 * 4 + 4 + 8) + (27 * 4 * 8 + 8 + 16) + (27 * 8 * 8 + 8 + 16)
    decoder = (8 * 8 * 4 + 4) + (27 * 8 * 4 + 4 + 8) + (27 * 4 * 4 + 4 + 8) + (4 * 3 + 3)
    assert sum(p.numel() for p in build(plan, 1, 3).parameters()) == encoder + decoder


def test_blocks_per_stage_are_honoured() -> None:
    plan = network_plan("unet", [4, 4, 4], blocks=[1, 3, 2], decoder_blocks=[4, 1])
    names = build(plan, 1, 2).state_dict()
    convolutions = sorted(name.removesuffix(".conv.weight") for name in names if name.endswith(".conv.weight"))
    encoder = [f"encoder.stages.{s}.{i}" for s, n in enumerate((1, 3, 2)) for i in range(n)]
    decoder = ["decoder.stages.0.0", *(f"decoder.stages.1.{i}" for i in range(4))]  # coarsest first
    assert convolutions == sorted(encoder + decoder)


def test_a_residual_block_starts_as_its_shortcut() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 4, 4, 4)
    same = ResidualBlock(3, 3, kernel=(3, 3, 3))
    torch.testing.assert_close(same(x), functional.leaky_relu(x, 0.01))
    pooled = ResidualBlock(3, 3, kernel=(3, 3, 3), stride=(1, 2, 2))
    torch.testing.assert_close(pooled(x), functional.leaky_relu(functional.avg_pool3d(x, (1, 2, 2)), 0.01))
    assert not any("project" in name for name, _ in pooled.named_parameters())
    assert "project.conv.bias" not in ResidualBlock(3, 4, kernel=(3, 3, 3)).state_dict()


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (1, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_average_pooling_and_its_gradient(stride: tuple[int, int, int], dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 4, 4, 6)
    ours, theirs = x.to(dtype).requires_grad_(), x.to(dtype).float().requires_grad_()
    y, z = average_pool(ours, stride), functional.avg_pool3d(theirs, stride)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), z, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-2 if dtype == torch.bfloat16 else 1e-6)
    scale = torch.linspace(-1, 1, z.numel()).reshape(z.shape)
    (y.float() * scale).sum().backward()
    (z * scale).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad.float(), theirs.grad, rtol=1e-2, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(average_pool(ours, stride), y)
