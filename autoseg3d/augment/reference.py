"""The same recipe through the batchgenerators library: the reference that ours is compared with in distribution.

Needs the extra `batchgenerators`. Three of the library's ways differ from ours: scales are drawn half below and half
above 1, blurring reflects edges about the face of the outermost voxel and has longer kernels, and what a rotated patch
shows beyond nnU-Net's crop is empty.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from autoseg3d.augment.masks import join_masks, split_masks
from autoseg3d.errors import UsageError
from planners.contract import Triple
from planners.plan import AugmentationPlan

Transform = Callable[..., dict[str, Any]]


class ReferencePipeline:
    """Turns nnU-Net's oversized crop of a case into an augmented patch, with batchgenerators' transforms.

    Args:
        plan: probabilities and ranges.
        channels: image channels; further channels of an image are one-hot masks and move as labels do.
        patch_size: (Z, Y, X) of the patch that comes out.
        mirror_axes: axes that may be flipped.
        order: of the interpolation of images; 1 as in the recipe, 3 as nnU-Net 1 had it.

    Raises:
        UsageError: the library is not installed.
    """

    def __init__(self, plan: AugmentationPlan, *, channels: int, patch_size: Triple, mirror_axes: tuple[int, ...], order: int = 1) -> None:
        self.channels, self.patch_size = channels, patch_size
        self.in_plane = plan.dummy_2d or patch_size[0] == 1
        try:
            self._spatial = _spatial(plan, patch_size[1:] if self.in_plane else patch_size, self.in_plane, order)
            self._others = _intensities(plan, self.in_plane, order) + _mirror(mirror_axes)
        except ImportError as error:
            remedy = "Install it with: pip install 'autoseg3d[batchgenerators]'"
            raise UsageError("the library batchgenerators is not installed", field="augmentation", remedy=remedy) from error

    def __call__(self, image: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The augmented patch of a crop: (C, *crop) float32 and (*crop) int16 -> (C, *patch_size), (*patch_size).

        The library draws from Python's and numpy's global generators: they are seeded for the call and then set back.
        """
        codes, table = join_masks(image[self.channels :])
        maps = torch.cat((labels[None], codes)).numpy()[None].astype(np.float32)
        data, maps = self.transform(image[: self.channels].numpy()[None], maps, seed)
        patch = torch.from_numpy(np.ascontiguousarray(data[0], dtype=np.float32))
        moved = torch.from_numpy(np.ascontiguousarray(maps[0]).astype(np.int16))
        if len(table):
            patch = torch.cat((patch, split_masks(moved[1:].clamp_min(0), table)))
        return patch, moved[0]

    def transform(self, data: np.ndarray, maps: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The library's part: data (1, C, *crop) and label maps (1, N, *crop), float32, to the patch."""
        with _seeded(seed):
            data, maps = self._move(data, maps)
            sample: dict[str, Any] = {"data": data, "seg": maps}
            for transform in self._others:
                sample = transform(**sample)
        return sample["data"], sample["seg"]

    def _move(self, data: np.ndarray, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rotation, scaling and the centre crop. In the plane, slices are handed over as channels."""
        if self.in_plane:
            flat = [array.reshape(1, -1, *array.shape[3:]) for array in (data, maps)]
            moved = self._spatial(data=flat[0], seg=flat[1])
            out = [moved[key].reshape(*array.shape[:3], *self.patch_size[1:]) for key, array in (("data", data), ("seg", maps))]
            return out[0], out[1]
        moved = self._spatial(data=data, seg=maps)
        return moved["data"], moved["seg"]


def _spatial(plan: AugmentationPlan, patch_size: tuple[int, ...], in_plane: bool, order: int) -> Transform:
    from batchgenerators.transforms.spatial_transforms import SpatialTransform

    limits = np.deg2rad(plan.rotation_degrees)
    angles = {f"angle_{name}": (-float(limit), float(limit)) for name, limit in zip("xyz", limits, strict=True)}
    transform: Transform = SpatialTransform(
        patch_size,
        patch_center_dist_from_border=None,
        do_elastic_deform=False,
        **({"angle_x": angles["angle_x"]} if in_plane else angles),
        scale=plan.scale,
        border_mode_data="constant",
        order_data=order,
        border_cval_seg=-1,
        order_seg=1,
        random_crop=False,
        p_scale_per_sample=plan.scale_probability,
        p_rot_per_sample=plan.rotation_probability,
    )
    return transform


def _intensities(plan: AugmentationPlan, in_plane: bool, order: int) -> list[Transform]:
    from batchgenerators.transforms import color_transforms as color
    from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
    from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform

    return [
        GaussianNoiseTransform(noise_variance=plan.noise_sigma, p_per_sample=plan.noise_probability),
        GaussianBlurTransform(
            plan.blur_sigma, different_sigma_per_axis=True, p_per_channel=plan.blur_channel_probability, p_per_sample=plan.blur_probability
        ),
        color.BrightnessMultiplicativeTransform(plan.brightness, p_per_sample=plan.brightness_probability),
        color.ContrastAugmentationTransform(plan.contrast, p_per_sample=plan.contrast_probability),
        SimulateLowResolutionTransform(
            plan.low_resolution_zoom,
            per_channel=True,
            p_per_channel=plan.low_resolution_channel_probability,
            order_downsample=0,
            order_upsample=order,
            p_per_sample=plan.low_resolution_probability,
            ignore_axes=(0,) if in_plane else None,
        ),
        *(
            color.GammaTransform(plan.gamma, invert_image=inverted, per_channel=True, retain_stats=True, p_per_sample=probability)
            for inverted, probability in ((True, plan.gamma_inverted_probability), (False, plan.gamma_probability))
        ),
    ]


def _mirror(axes: tuple[int, ...]) -> list[Transform]:
    from batchgenerators.transforms.spatial_transforms import MirrorTransform

    return [MirrorTransform(axes)] if axes else []


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    python, array = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
