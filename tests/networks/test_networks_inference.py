"""Networks made ready for prediction: equal to the originals, which stay as they were."""

import pytest
import torch
from network_plans import kinds, network_plan
from torch import Tensor, nn

from autoseg3d.networks import build
from autoseg3d.networks.inference import OneDnnConvolution, optimise_for_inference

ARCHITECTURES = ["unet", "resenc", "vnet"]


class Foreign(nn.Module):
    """A network of a third party, with torch's own layers."""

    stride_zyx = (1, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(1, 4, 3, padding="same"), nn.InstanceNorm3d(4, affine=True), nn.ReLU())
        self.mixed = nn.Parameter(torch.ones(4, 1, 1, 1))
        self.head = nn.Conv3d(4, 2, 1)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x) * self.mixed  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.head(self.features(x)),)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def trained(architecture: str, kind: str = "anisotropic") -> tuple[nn.Module, Tensor]:
    patch, plan = kinds(architecture)[kind]
    network = build(plan, 1, 3, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network.eval(), torch.randn(2, 1, *patch, generator=generator)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["anisotropic", "2d"])
def test_float32_is_equal_up_to_rounding(architecture: str, kind: str) -> None:
    network, x = trained(architecture, kind)
    with torch.no_grad():
        wanted = network(x)[0]
    (logits,) = optimise_for_inference(network)(x)
    assert distance(logits, wanted) < 1e-4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_is_near_and_its_logits_are_float32(architecture: str) -> None:
    network, x = trained(architecture)
    with torch.no_grad():
        wanted = network(x)[0]
    ready = optimise_for_inference(network, dtype=torch.bfloat16)
    (logits,) = ready(x)
    assert logits.dtype == torch.float32
    assert ready.features(x).dtype == torch.bfloat16
    assert distance(logits, wanted) < 0.1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_of_the_features_is_the_output(architecture: str, dtype: torch.dtype) -> None:
    network, x = trained(architecture)
    ready = optimise_for_inference(network, dtype=dtype)
    assert ready.stride_zyx == network.stride_zyx
    assert torch.equal(ready.head(ready.features(x)), ready(x)[0])


def test_the_original_stays_as_it_was() -> None:
    network, x = trained("unet")
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    ready = optimise_for_inference(network, dtype=torch.bfloat16)
    ready(x)
    assert network.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(p.requires_grad for p in ready.parameters())


def test_weights_lie_in_the_chosen_type_and_norms_in_float32() -> None:
    ready = optimise_for_inference(trained("unet")[0], dtype=torch.bfloat16)
    types = {name.split(".")[-2]: p.dtype for name, p in ready.network.encoder.named_parameters()}  # type: ignore[union-attr, operator]
    assert types == {"conv": torch.bfloat16, "norm": torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_foreign_network_will_do(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network, x = Foreign().eval(), torch.randn(1, 1, 6, 6, 6)
    with torch.no_grad():
        wanted = network(x)[0]
    ready = optimise_for_inference(network, dtype=dtype)
    assert distance(ready(x)[0], wanted) < (0.05 if dtype == torch.bfloat16 else 1e-5)


def test_onednn_convolutions_are_torchs() -> None:
    torch.manual_seed(0)
    conv = nn.Conv3d(3, 5, (1, 3, 5), (1, 2, 1), (0, 1, 2))
    x = torch.randn(1, 3, 4, 6, 7)
    with torch.no_grad():
        torch.testing.assert_close(OneDnnConvolution(conv)(x), conv(x), rtol=1e-4, atol=1e-5)
        doubled = conv.double()
        torch.testing.assert_close(OneDnnConvolution(doubled)(x.double()), doubled(x.double()))


def test_an_optimised_network_takes_part_in_no_training() -> None:
    ready = optimise_for_inference(build(network_plan("unet", [2, 4]), 1, 2))
    assert not ready(torch.zeros(1, 1, 4, 4, 4))[0].requires_grad
