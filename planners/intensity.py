"""Intensity normalisation per channel: nnU-Net's rule, by the names of the channels."""

from __future__ import annotations

from collections.abc import Sequence

from planners.explain import Choice
from planners.plan import Normalization

CROPPED_MUCH = 0.75

_BY_NAME: dict[str, Normalization] = {
    "ct": "ct",
    "nonorm": "none",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rgb_to_0_1",
}


def normalization(channel_names: Sequence[str]) -> Choice[tuple[Normalization, ...]]:
    """The scheme of each channel: by its name in any case, z-score where the name says nothing."""
    schemes = tuple(_BY_NAME.get(name.lower(), "zscore") for name in channel_names)
    said = ", ".join(f"'{name}' is normalised by {scheme}" for name, scheme in zip(channel_names, schemes, strict=True))
    reason = f"{said}; CT has absolute units and takes the training set's foreground statistics, any other modality each scan's own"
    return Choice(schemes, "normalisation by channel name", reason)


def use_mask_for_norm(schemes: Sequence[Normalization], median_relative_size: float) -> Choice[tuple[bool, ...]]:
    """Whether z-score statistics leave out what lies outside the nonzero region."""
    cropped = median_relative_size < CROPPED_MUCH
    masks = tuple(cropped and scheme == "zscore" for scheme in schemes)
    reason = (
        f"cropping to the nonzero region leaves {median_relative_size:.0%} of the median scan; below {CROPPED_MUCH:.0%} the empty "
        f"surroundings are kept out of z-score statistics"
    )
    return Choice(masks, "nonzero mask where scans are mostly empty", reason)
