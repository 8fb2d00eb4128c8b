"""A batch worked on in parts: how the loss of a part finds the sums over the whole batch, so that the parts add up to it.

Parts are the pieces that fit into memory, one after the other, and the shares of several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoseg3d.losses import Combine, DeepSupervisionLoss
from autoseg3d.training.ranks import Ranks

Part = tuple[Tensor, Tensor]
Forward = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Whole:
    """The batch that parts belong to: of `samples` samples, over all processes."""

    loss: DeepSupervisionLoss
    samples: int
    ranks: Ranks

    def combining(self, forward: Forward, parts: Sequence[Part]) -> Callable[[int], Combine | None]:
        """Gives, for a part of so many samples, what its loss needs to know of the whole batch.

        Where samples bear on each other (Dice over the batch, ignored voxels) and this process has several parts, their sums
        are found by a forward pass of its own: the price of a third of a step for gradients that are exactly the batch's.
        """
        if len(parts) == 1 and self.ranks.count == 1:
            return lambda samples: None
        if not self.loss.sums_over_batch:
            return lambda samples: lambda vector: vector * (self.samples / samples)
        if len(parts) == 1:
            return lambda samples: self.ranks.sum
        totals = self._totals(forward, parts)
        return lambda samples: _given(totals)

    @torch.no_grad()
    def _totals(self, forward: Forward, parts: Sequence[Part]) -> list[Tensor]:
        """The sums over the whole batch, by a forward pass that draws the random numbers of the one that follows."""
        rows: list[list[Tensor]] = []
        device = parts[0][0].device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for x, y in parts:
                rows.append([])
                self.loss(forward(x), y, _noting(rows[-1]))
        return [self.ranks.sum(torch.stack(column).sum(0)) for column in zip(*rows, strict=True)]


def _given(totals: Sequence[Tensor]) -> Combine:
    left = iter(totals)
    return lambda vector: next(left)


def _noting(vectors: list[Tensor]) -> Combine:
    def note(vector: Tensor) -> Tensor:
        vectors.append(vector)
        return vector

    return note
