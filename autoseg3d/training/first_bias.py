"""The bias that the heads begin with: how often each class stands in the patches, so that training need not learn it first.

From zero bias every class is equally likely everywhere, and the first hundred steps teach all layers to say background; small
structures then wait for features that were unlearnt. With the log of the frequencies as bias (Lin et al. 2017, arXiv
1708.02002, section 4.1) the first steps are about where structures are: docs/explanation/short-runs.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from autoseg3d.networks import head_names
from autoseg3d.patches import PatchSource
from planners.labels import LabelTable

# Enough patches to meet every class that is not rare; rarer ones begin with the least probability.
PATCHES, LEAST = 32, 1e-4


def first_bias(source: PatchSource, labels: LabelTable) -> Tensor:
    """(classes,) float32 bias from the first whole batches of a source, 32 patches or more.

    Classes that exclude each other get the log of their frequencies, regions the log of their odds.
    """
    batches = -(-PATCHES // source.configuration.batch_size)
    frequencies = class_frequencies((source.batch(0, step)[1] for step in range(batches)), labels)
    if labels.has_regions:
        return torch.logit(frequencies.clamp(LEAST, 1 - LEAST)).float()
    return frequencies.clamp(min=LEAST).log().float()


def class_frequencies(targets: Iterable[Tensor], labels: LabelTable) -> Tensor:
    """(classes,) float64: the share of annotated voxels that each channel of the network should find, from value indices."""
    counts = torch.zeros(len(labels.values) + 2, dtype=torch.float64)
    for target in targets:
        counts += torch.bincount(target.flatten().long().clamp_(min=0), minlength=len(counts))
    if labels.ignore_index is not None:
        counts[labels.ignore_index] = 0
    shares = counts / counts.sum().clamp(min=1)
    found = torch.stack([shares[list(members)].sum() for members in labels.class_members])
    return found if labels.has_regions else torch.cat(((1 - found.sum()).clamp(min=0)[None], found))


@torch.no_grad()
def set_bias(network: nn.Module, bias: Tensor) -> None:
    """Gives every head of a network this bias; a head without one stays as it is."""
    heads = head_names(network)
    for name, parameter in network.named_parameters():
        if name.startswith(heads) and name.endswith("bias") and parameter.shape == bias.shape:
            parameter.copy_(bias)
