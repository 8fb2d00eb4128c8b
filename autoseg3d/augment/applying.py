"""Apply: carries a drawn record out on a patch, on whatever device the patch lies."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autoseg3d.augment import intensity
from autoseg3d.augment.drawing import Drawn
from autoseg3d.augment.masks import join_masks, split_masks
from autoseg3d.augment.spatial import read_box, sample


def apply(image: torch.Tensor, labels: torch.Tensor, drawn: Drawn) -> tuple[torch.Tensor, torch.Tensor]:
    """The augmented patch; the tensors given stay as they are.

    Args:
        image: (C, *box) float32. The box is `read_box(drawn)`; what lies outside of the scan must be 0 in it. Channels
            from `drawn.channels` on are one-hot masks: they move as label maps do and keep their values 0 and 1.
        labels: (*box) int16, -1 outside of the scan.
        drawn: what to do.

    Returns:
        (C, *patch_size) float32 and (*patch_size) int16, contiguous. On one kind of device, with one number of threads,
        the same record gives the same values every time.

    Raises:
        ValueError: the tensors do not have the box's shape, or there are fewer channels than were drawn for.
    """
    _check(image, labels, drawn)
    if drawn.is_spatial:
        image, labels = _move(image, labels, drawn)
    else:
        image, labels = image.clone(memory_format=torch.contiguous_format), labels.clone(memory_format=torch.contiguous_format)
    change_intensities(image[: drawn.channels], drawn)
    if drawn.mirror:
        return image.flip([axis + 1 for axis in drawn.mirror]), labels.flip(drawn.mirror)
    return image, labels


def apply_batch(
    images: Sequence[torch.Tensor], labels: Sequence[torch.Tensor], drawn: Sequence[Drawn]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`apply` on each sample of a batch: (B, C, *patch_size) float32 and (B, *patch_size) int16.

    Images and labels come as sequences, since the boxes of their samples differ in shape.
    """
    pairs = [apply(image, label_map, record) for image, label_map, record in zip(images, labels, drawn, strict=True)]
    return torch.stack([image for image, _ in pairs]), torch.stack([label_map for _, label_map in pairs])


def change_intensities(image: torch.Tensor, drawn: Drawn) -> None:
    """The intensity transforms of a record, in place, on an image (C, Z, Y, X) with one channel per drawn channel."""
    if drawn.noise is not None:
        intensity.add_noise(image, sigma=drawn.noise.sigma, seed=drawn.noise.seed)
    for i, channel in enumerate(image):
        if drawn.blur is not None and (sigmas := drawn.blur[i]) is not None:
            intensity.blur(channel, sigmas)
        if drawn.brightness is not None:
            intensity.change_brightness(channel, drawn.brightness[i])
        if drawn.contrast is not None:
            intensity.change_contrast(channel, drawn.contrast[i])
        if drawn.low_resolution is not None and (zoom := drawn.low_resolution[i]) is not None:
            intensity.lower_resolution(channel, zoom, keep_axis_0=drawn.in_plane)
        if drawn.gamma_inverted is not None:
            intensity.change_gamma(channel, drawn.gamma_inverted[i], inverted=True)
        if drawn.gamma is not None:
            intensity.change_gamma(channel, drawn.gamma[i], inverted=False)


def _check(image: torch.Tensor, labels: torch.Tensor, drawn: Drawn) -> None:
    _, shape = read_box(drawn)
    if tuple(image.shape[1:]) != shape or tuple(labels.shape) != shape or image.shape[0] < drawn.channels:
        wanted = f"an image ({drawn.channels} channels or more, *{shape}) and labels {shape}"
        raise ValueError(f"wanted {wanted}, got {tuple(image.shape)} and {tuple(labels.shape)}")


def _move(image: torch.Tensor, labels: torch.Tensor, drawn: Drawn) -> tuple[torch.Tensor, torch.Tensor]:
    codes, table = join_masks(image[drawn.channels :])
    moved, maps = sample(image[: drawn.channels], torch.cat((labels[None], codes)), drawn)
    if len(table):
        moved = torch.cat((moved, split_masks(maps[1:], table)))
    return moved, maps[0]
