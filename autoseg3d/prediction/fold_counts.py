"""How far the networks of a member agree with each other, counted while their logits stream by."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from autoseg3d.ops.labelling import winners
from autoseg3d.sliding_window import Slab
from planners.labels import LabelTable


class FoldCounts:
    """Voxels of every label by every network, and those that two networks share, on the working grid.

    Labels of a softmax model are where they win; a region of a sigmoid model is where its own channel is above zero.

    Args:
        labels: of the model.
        networks: how many there are; of a single one nothing can be compared.
        voxel_ml: volume of a voxel of the working grid.
    """

    def __init__(self, labels: LabelTable, networks: int, *, voxel_ml: float) -> None:
        self._labels, self._voxel_ml = labels, voxel_ml
        self._sizes = np.zeros((networks, len(labels.labels)), dtype=np.int64)
        self._shared = {pair: np.zeros(len(labels.labels), dtype=np.int64) for pair in combinations(range(networks), 2)}
        self._counted_to = 0

    def watching(self, slabs: Iterator[Slab], first_row: int) -> Iterator[Slab]:
        """The slabs of one band, which starts at working row `first_row`; rows that an earlier band had count once."""
        skip = max(0, self._counted_to - first_row)
        width = 0
        for slab in slabs:
            width = slab.logits.shape[2]
            if slab.of_network is not None and skip < width:
                self._count([slab.of_network(i)[:, :, skip:] for i in range(len(self._sizes))])
            yield slab
        self._counted_to = max(self._counted_to, first_row + width)

    def _count(self, logits: list[Tensor]) -> None:
        if self._labels.has_regions:
            self._count_regions([part > 0 for part in logits])
            return
        codes = [winners(part, regions=False) for part in logits]
        for i, code in enumerate(codes):
            self._sizes[i] += self._per_label(code)
        for i, j in self._shared:
            self._shared[i, j] += self._per_label(codes[i][codes[i] == codes[j]])

    def _count_regions(self, masks: list[Tensor]) -> None:
        for i, mask in enumerate(masks):
            self._sizes[i] += mask.flatten(1).sum(dim=1).cpu().numpy()
        for i, j in self._shared:
            self._shared[i, j] += (masks[i] & masks[j]).flatten(1).sum(dim=1).cpu().numpy()

    def _per_label(self, code: Tensor) -> np.ndarray:
        counts: np.ndarray = torch.bincount(code.flatten().int(), minlength=self._labels.num_classes)[1:].cpu().numpy()
        return counts

    def volumes_ml(self) -> np.ndarray:
        """(networks, labels) volumes by each network alone."""
        volumes: np.ndarray = self._sizes * self._voxel_ml
        return volumes

    def pairwise_dice(self) -> list[float | None]:
        """For each label the mean Dice of all pairs of networks; None for a single network, or where none finds it."""
        found: list[float | None] = []
        for label in range(self._sizes.shape[1]):
            sums = {pair: int(self._sizes[pair[0], label] + self._sizes[pair[1], label]) for pair in self._shared}
            dice = [2 * int(self._shared[pair][label]) / total for pair, total in sums.items() if total]
            found.append(sum(dice) / len(dice) if dice else None)
        return found
