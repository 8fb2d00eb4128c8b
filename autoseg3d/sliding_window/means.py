"""What is averaged over windows: logits, or the features before them where those take less room."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from autoseg3d.errors import ModelError


def uses_features(networks: Sequence[nn.Module], num_classes: int, *, apart: bool = False) -> bool:
    """Whether averaging the networks' features takes less room than averaging `num_classes` logits (of each, if `apart`)."""
    return 0 < _feature_channels(networks) < num_classes * (len(networks) if apart else 1)


def _feature_channels(networks: Sequence[nn.Module]) -> int:
    """Channels of all networks' features together; 0 where one has no linear head to be applied afterwards."""
    heads = [_linear_head(network) for network in networks]
    return sum(head.in_channels for head in heads if head is not None) if all(head is not None for head in heads) else 0


def _linear_head(network: nn.Module) -> nn.Conv3d | None:
    """The 1×1×1 layer that makes a network's logits of its features, None where it has none that this module knows."""
    head = getattr(network, "head", None)
    if not isinstance(head, nn.Module) or not hasattr(network, "features"):
        return None
    layers = [module for module in head.modules() if isinstance(module, nn.Conv3d)]
    return layers[0] if len(layers) == 1 and layers[0].kernel_size == (1, 1, 1) else None


def slab_channels(networks: Sequence[nn.Module], num_classes: int, *, apart: bool = False) -> int:
    """Channels of the slab that `predict_slabs` holds: features or logits, whichever are fewer."""
    if uses_features(networks, num_classes, apart=apart):
        return _feature_channels(networks)
    return num_classes * (len(networks) if apart else 1)


class LogitMean:
    """Averages the logits of networks, or, kept `apart`, holds them side by side.

    Attributes:
        passes: functions of windows (B, C, *patch) that give (B, channels, *patch), each to be added up by itself. One, whose
            answers are sums over `averaged` networks, or with `one_by_one` one for every network.
        channels: of the slab.
    """

    def __init__(self, networks: Sequence[nn.Module], num_classes: int, *, apart: bool, one_by_one: bool = False) -> None:
        self._networks, self._classes, self._apart = networks, num_classes, apart
        count = len(networks)
        self.channels, self.averaged = (num_classes * count, 1) if apart else (num_classes, 1 if one_by_one else count)
        self.passes = [partial(_logits, network) for network in networks] if one_by_one and not apart else [self._forward]

    def _forward(self, windows: Tensor) -> Tensor:
        if self._apart:
            return torch.cat([_logits(network, windows) for network in self._networks], dim=1)
        total = _logits(self._networks[0], windows)
        for network in self._networks[1:]:
            total = total + _logits(network, windows)
        return total

    def logits(self, held: Tensor) -> Tensor:
        """(K, rows, Y, X) mean of the networks' logits."""
        return held.reshape(-1, self._classes, *held.shape[1:]).mean(dim=0) if self._apart else held

    def of_network(self, held: Tensor, index: int) -> Tensor:
        """(K, rows, Y, X) logits of one network."""
        return held[index * self._classes : (index + 1) * self._classes]


def _logits(network: nn.Module, windows: Tensor) -> Tensor:
    return cast(Tensor, network(windows)[0].float())


class FeatureMean:
    """Averages what each network has before its linear head, side by side, and applies the heads at the end."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._networks = networks
        heads = [_linear_head(network) for network in networks]
        layers = [head for head in heads if head is not None]
        self.channels, self.averaged = sum(layer.in_channels for layer in layers), 1
        # The mean of all heads is one matrix, (K, channels), and one bias.
        count = len(layers)
        self._layers = layers
        with torch.no_grad():
            self._weight = torch.cat([layer.weight[:, :, 0, 0, 0].float() for layer in layers], dim=1) / count
            biases = [layer.bias.float() for layer in layers if layer.bias is not None]
            self._bias = torch.stack(biases).sum(dim=0) / count if biases else torch.zeros(len(self._weight))
        self._room = torch.empty(0)
        self.passes = [self._forward]

    def _forward(self, windows: Tensor) -> Tensor:
        """(B, sum of widths, *patch) features of all networks."""
        features = [network.features(windows).float() for network in self._networks]  # type: ignore[operator]
        return features[0] if len(features) == 1 else torch.cat(features, dim=1)

    def logits(self, held: Tensor) -> Tensor:
        """(K, rows, Y, X) mean of the heads over their own features, in a buffer that the next call uses again."""
        columns = held.reshape(len(held), -1)
        needed = len(self._weight) * columns.shape[1]
        if len(self._room) < needed or self._room.device != held.device:
            self._room = held.new_empty(needed)
        result = self._room[:needed].view(len(self._weight), columns.shape[1])
        torch.addmm(self._bias.to(held.device)[:, None], self._weight.to(held.device), columns, out=result)
        refuse_overflow(result)
        return result.view(len(self._weight), *held.shape[1:])

    def of_network(self, held: Tensor, index: int) -> Tensor:
        """(K, rows, Y, X) logits of one network."""
        layer, first = self._layers[index], sum(other.in_channels for other in self._layers[:index])
        with torch.no_grad():
            weight, part = layer.weight[:, :, 0, 0, 0].float(), held[first : first + layer.in_channels].reshape(layer.in_channels, -1)
            logits = weight.to(held.device) @ part
            if layer.bias is not None:
                logits += layer.bias.float().to(held.device)[:, None]
        return logits.reshape(-1, *held.shape[1:])


def refuse_overflow(values: Tensor) -> None:
    """Raises ModelError where a network's numbers are NaN or infinite: no label can be told from them.

    A sum is finite only where all its terms are, and costs one look at each number.
    """
    if not bool(torch.isfinite(values.sum())):
        raise ModelError(
            "the network gave values that are not finite",
            code="E_NETWORK_NONFINITE",
            remedy="Predict with --precision fp32; if that does not help, the model or the scan's intensities are broken",
        )
