"""The layers, against formulas and against torch's own in float32."""

import math

import pytest
import torch
from network_plans import network_plan
from torch import Tensor, nn
from torch.nn import functional

from autoseg3d.errors import UsageError
from autoseg3d.networks import build
from autoseg3d.networks.blocks import Convolution, ConvUnit, UpConvolution, check_input
from autoseg3d.networks.norm import InstanceNorm, channels_last
from autoseg3d.networks.portable import portable

SHALLOW = [
    ((3, 3, 3), (1, 1, 1), (2, 6, 6)),
    ((3, 3, 3), (1, 2, 2), (2, 6, 6)),
    ((5, 5, 5), (1, 1, 1), (3, 6, 6)),
    ((5, 3, 3), (2, 1, 1), (4, 6, 6)),
    ((7, 3, 3), (1, 1, 1), (4, 6, 6)),  # torch 2.13 crashes here in bfloat16
    ((3, 3, 3), (2, 2, 2), (2, 6, 6)),
    ((1, 3, 3), (1, 1, 1), (2, 6, 6)),
    ((3, 3, 3), (1, 1, 1), (1, 6, 6)),
    ((3, 3, 3), (1, 1, 1), (3, 6, 6)),
]


def relative(a: Tensor, b: Tensor) -> float:
    """Distance of a from b; not a number where a is not."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


def gradient(layer: nn.Module, x: Tensor, *, autocast: bool) -> Tensor:
    layer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y = layer(x)
    (y.float() * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    weight = layer.get_parameter("weight").grad
    assert weight is not None
    return weight.clone()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(("kernel", "stride", "size"), SHALLOW)
def test_weight_gradients_in_bfloat16_are_those_of_float32(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], size: tuple[int, int, int], memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    layer = Convolution(16, 16, kernel=kernel, stride=stride)
    for seed in range(3):  # what torch leaves unset may happen to be right once
        x = torch.randn(2, 16, *size, generator=torch.Generator().manual_seed(seed)).contiguous(memory_format=memory_format)
        assert relative(gradient(layer, x, autocast=True), gradient(layer, x, autocast=False)) < 0.02


def test_a_network_whose_deepest_stages_are_two_slices_deep_learns_the_same_in_bfloat16() -> None:
    plan = network_plan("unet", [16, 16, 16], strides=[(1, 1, 1), (2, 2, 2), (1, 2, 2)])
    network = build(plan, 1, 2)
    x = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(1))

    def gradients(autocast: bool) -> dict[str, Tensor]:
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            outputs = network(x)
        targets = [(functional.interpolate(x, y.shape[2:])[:, 0] > 0).long() for y in outputs]
        torch.stack([functional.cross_entropy(y.float(), t) for y, t in zip(outputs, targets, strict=True)]).sum().backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None and p.dim() == 5}

    exact, reduced = gradients(False), gradients(True)
    assert len(exact) == 14
    assert {name: relative(reduced[name], exact[name]) < 0.15 for name in exact} == dict.fromkeys(exact, True)


def test_the_float32_detour_changes_no_type_and_no_inference() -> None:
    layer, x = Convolution(4, 4, kernel=(3, 3, 3)), torch.randn(1, 4, 2, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = layer(x)
        with torch.no_grad():
            inferred = layer(x)
    assert trained.dtype == inferred.dtype == torch.bfloat16
    assert relative(trained, inferred) < 0.02
    assert layer(x).dtype == torch.float32
    whole = Convolution(4, 4, kernel=(3, 3, 3)).bfloat16()
    assert whole(x.bfloat16()).dtype == torch.bfloat16


def test_convolutions_keep_the_size_and_strides_divide_it() -> None:
    x = torch.zeros(1, 2, 4, 6, 8)
    assert Convolution(2, 3, kernel=(1, 3, 5))(x).shape == (1, 3, 4, 6, 8)
    assert Convolution(2, 3, kernel=(3, 3, 3), stride=(1, 2, 4))(x).shape == (1, 3, 4, 3, 2)
    assert UpConvolution(2, 3, stride=(1, 2, 3))(x).shape == (1, 3, 4, 12, 24)


def test_even_kernels_are_refused() -> None:
    with pytest.raises(UsageError, match=r"network\.stages\.kernel.*must be odd.*\(3, 2, 3\)"):
        Convolution(1, 1, kernel=(3, 2, 3))


def test_initialisation_is_kaiming_normal_over_the_fan_in() -> None:
    torch.manual_seed(0)
    gain = math.sqrt(2 / (1 + 0.01**2))
    conv, up = Convolution(40, 60, kernel=(3, 3, 3)), UpConvolution(200, 100, stride=(1, 2, 2))
    assert conv.weight.std().item() == pytest.approx(gain / math.sqrt(40 * 27), rel=0.02)
    assert up.weight.std().item() == pytest.approx(gain / math.sqrt(100 * 4), rel=0.02)
    assert conv.weight.mean().item() == pytest.approx(0, abs=1e-3)
    assert [bool(layer.get_parameter("bias").any()) for layer in (conv, up)] == [False, False]


def normalised(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    x = x.double()
    mean, var = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), correction=0, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * weight.double().view(-1, 1, 1, 1) + bias.double().view(-1, 1, 1, 1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize("grad", [False, True])
def test_instance_norm_is_the_formula(memory_format: torch.memory_format, dtype: torch.dtype, tolerance: float, grad: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    norm = InstanceNorm(5)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2, generator=generator)
        norm.bias.uniform_(-1, 1, generator=generator)
    x = (torch.randn(2, 5, 6, 7, 8, generator=generator) * 3 + 2).to(dtype).contiguous(memory_format=memory_format)
    with torch.set_grad_enabled(grad):
        y = norm(x)
    assert y.dtype == dtype
    assert relative(y, normalised(x, norm.weight, norm.bias)) < tolerance


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_instance_norm_bears_a_mean_far_above_the_deviation(memory_format: torch.memory_format) -> None:
    norm = InstanceNorm(4)
    x = (torch.randn(1, 4, 16, 16, 16) + 1000).contiguous(memory_format=memory_format)
    with torch.no_grad():
        assert relative(norm(x), normalised(x, norm.weight, norm.bias)) < 0.01


def test_the_way_of_gpus_is_the_same() -> None:
    torch.manual_seed(0)
    norm, x = InstanceNorm(3), torch.randn(2, 3, 4, 5, 6)
    results = []
    for forward in (norm.forward, lambda x, activated: norm._as_batch(x, activated)):
        for activated in (False, True):
            leaf = x.clone().requires_grad_()
            y = forward(leaf, activated=activated)
            (y * torch.linspace(0, 1, y.numel()).view_as(y)).sum().backward()
            assert leaf.grad is not None
            results.append((y.detach(), leaf.grad))
    for ours, theirs in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["contiguous", "channels last"])
@pytest.mark.parametrize(("batch", "size"), [(3, (4, 5, 6)), (1, (1, 7, 6)), (2, (6, 1, 1))])
@pytest.mark.parametrize("activated", [False, True])
def test_instance_norm_gradients_are_torchs(order: str, batch: int, size: tuple[int, int, int], activated: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(batch, 3, *size, generator=generator).requires_grad_()
    norm, theirs = InstanceNorm(3), nn.InstanceNorm3d(3, affine=True)
    with torch.no_grad():
        for layer in (norm, theirs):
            layer.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
            layer.bias.copy_(torch.tensor([0.1, 0.0, -1.0]))
    scale = torch.randn(x.shape, generator=generator)
    y = norm(channels_last(x) if order == "channels last" else x, activated=activated)
    assert y.is_contiguous(memory_format=torch.channels_last_3d) or order == "contiguous"
    wanted = functional.leaky_relu(theirs(x), 0.01) if activated else theirs(x)
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
    ours = torch.autograd.grad((y * scale).sum(), [x, norm.weight, norm.bias])
    for a, b in zip(ours, torch.autograd.grad((wanted * scale).sum(), [x, theirs.weight, theirs.bias]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_gradients_of_channels_last_norms_are_those_of_float32() -> None:
    generator, norm, found = torch.Generator().manual_seed(5), InstanceNorm(4), []
    x, scale = torch.randn(2, 4, 8, 8, 8, generator=generator), torch.randn(2, 4, 8, 8, 8, generator=generator)
    for dtype in (torch.float32, torch.bfloat16):
        leaf = channels_last(x.to(dtype)).requires_grad_()
        found.append(torch.autograd.grad((norm(leaf, activated=True).float() * scale).sum(), [leaf, norm.weight, norm.bias]))
    assert [relative(reduced, exact) < 0.02 for exact, reduced in zip(*found, strict=True)] == [True] * 3


def test_a_whole_step_is_the_same_in_either_order_of_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = network_plan("resenc", [8, 16], strides=[(1, 1, 1), (1, 2, 2)])
    x, found = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(1)), []
    for order in (channels_last, torch.Tensor.contiguous):
        monkeypatch.setattr("autoseg3d.networks.skeleton.channels_last", order)
        network = build(plan, 1, 2, seed=3)
        assert network.features(x).is_contiguous() == (order is not channels_last)  # type: ignore[operator]
        outputs = network(x)
        torch.stack([(y.square()).mean() for y in outputs]).sum().backward()
        found.append({name: p.grad for name, p in network.named_parameters()})
    for name, gradient_last in found[0].items():
        torch.testing.assert_close(gradient_last, found[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_an_export_holds_nothing_but_layers(channels: int) -> None:
    network = portable(build(network_plan("unet", [4, 8], strides=[(1, 1, 1), (2, 2, 2)]), channels, 2))
    program = torch.export.export(network, (torch.zeros(1, channels, 8, 8, 8),))
    done = {str(node.target).split(".")[1] for node in program.graph.nodes if node.op == "call_function"}
    assert done == {"conv3d", "conv_transpose3d", "instance_norm", "leaky_relu", "cat"}


def test_a_single_voxel_becomes_the_shift() -> None:
    norm = InstanceNorm(3).train()
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([1.0, -2.0, 0.5]))
    x = torch.randn(2, 3, 1, 1, 1, requires_grad=True)
    y = norm(x)
    torch.testing.assert_close(y.flatten(1), torch.tensor([[1.0, -2.0, 0.5]] * 2), rtol=0, atol=1e-4)
    y.sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) < 1e-3
    with pytest.raises(ValueError, match="more than 1 spatial element"):  # what torch's own module does
        nn.InstanceNorm3d(3).train()(x)


def test_a_unit_is_convolution_norm_and_leaky_relu() -> None:
    torch.manual_seed(2)
    unit, x = ConvUnit(2, 3, kernel=(3, 3, 3), stride=(1, 2, 2)), torch.randn(1, 2, 4, 4, 4)
    normed = functional.instance_norm(functional.conv3d(x, unit.conv.weight, unit.conv.bias, (1, 2, 2), 1))
    torch.testing.assert_close(unit(x), functional.leaky_relu(normed, 0.01), rtol=1e-4, atol=1e-5)
    unit.activate = False
    torch.testing.assert_close(unit(x), normed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 2, 8, 8, 8), (1, 1, 8, 8), (1, 1, 8, 6, 8), (1, 1, 0, 8, 8)])
def test_wrong_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        check_input(torch.zeros(shape), 1, (2, 4, 4))
    assert caught.value.code == "E_NETWORK_INPUT"
    assert str(shape[-1]) in str(caught.value.got)
