"""Building by name: seeds, the global random state, and refusals."""

import pytest
import torch
from network_plans import network_plan
from torch import nn

from autoseg3d.errors import UsageError
from autoseg3d.networks import ARCHITECTURES, architecture_names, build

PLAN = network_plan("unet", [2, 4])


def weights(network: nn.Module) -> list[float]:
    return [float(p.detach().double().sum()) for p in network.parameters()]


def test_the_seed_makes_the_weights_and_nothing_else_does() -> None:
    first = weights(build(PLAN, 1, 2, seed=3))
    torch.manual_seed(99)
    assert weights(build(PLAN, 1, 2, seed=3)) == first
    assert weights(build(PLAN, 1, 2, seed=4)) != first


def test_the_global_random_state_stays() -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    build(PLAN, 1, 2, seed=3)
    assert torch.equal(torch.rand(3), wanted)


def test_our_architectures_are_listed_first() -> None:
    assert tuple(ARCHITECTURES) == ("unet", "resenc", "vnet")
    assert architecture_names()[:3] == ("unet", "resenc", "vnet")


def test_an_unknown_architecture_lists_the_choices() -> None:
    with pytest.raises(UsageError, match=r"network\.architecture.*unet or resenc or vnet.*got segresnet"):
        build(network_plan("segresnet", [2, 4]), 1, 2)


@pytest.mark.parametrize(("channels", "classes", "field"), [(0, 2, "in_channels"), (1, 0, "num_classes")])
def test_no_channels_are_refused(channels: int, classes: int, field: str) -> None:
    with pytest.raises(UsageError, match=field):
        build(PLAN, channels, classes)


def test_it_builds_without_memory_on_the_meta_device() -> None:
    with torch.device("meta"):
        network = build(network_plan("resenc", [64, 128, 256]), 1, 2)
    assert {p.device.type for p in network.parameters()} == {"meta"}
