"""Masks: one-hot channels of an image as one label map and back, so that they are turned the way label maps are."""

from __future__ import annotations

import torch

_GROUP = 8


def join_masks(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, Z, Y, X) masks of zeros and ones -> codes (1, Z, Y, X) int16 and table (codes, K) bool.

    Voxels with the same set of masks get the same code, and row i of the table is the set that code i stands for;
    masks may overlap, as regions do. Without masks (K = 0) the codes have shape (0, Z, Y, X) and the table no rows.
    """
    if not len(masks):
        return masks.new_empty(masks.shape, dtype=torch.int16), torch.empty((0, 0), dtype=torch.bool, device=masks.device)
    if float(masks.sum(0).max()) <= 1:
        codes = torch.zeros(masks.shape[1:], device=masks.device)
        for i, mask in enumerate(masks, start=1):
            codes.add_(mask, alpha=i)
        alone = torch.eye(len(masks), dtype=torch.bool, device=masks.device)
        return codes.to(torch.int16)[None], torch.cat((torch.zeros_like(alone[:1]), alone))
    return _join_overlapping(masks)


def _join_overlapping(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    codes = torch.zeros(masks[0].numel(), dtype=torch.int64, device=masks.device)
    for group in torch.split(masks, _GROUP):
        for mask in group:
            codes = codes * 2 + mask.reshape(-1).to(torch.int64)
        present = torch.bincount(codes) > 0
        codes = (present.cumsum(0) - 1)[codes]
    example = torch.zeros(int(codes.max()) + 1, dtype=torch.int64, device=masks.device)
    example[codes] = torch.arange(len(codes), device=masks.device)
    return codes.to(torch.int16).view(1, *masks.shape[1:]), masks.flatten(1)[:, example].T.bool()


def split_masks(codes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The inverse of `join_masks`: (1, Z, Y, X) codes and their table -> (K, Z, Y, X) float32 zeros and ones."""
    flat = codes.reshape(-1).to(torch.int32)
    return torch.stack([column.index_select(0, flat) for column in table.T.float()]).view(table.shape[1], *codes.shape[1:])
