"""CPU time of the training augmentation per patch, on one thread: ours, batchgenerators and batchgeneratorsv2.

    python benchmarks/augmentation.py [--patch 128 128 128] [--channels 1] [--labels 4] [--draws 7] [--image I --label L]

Run it in an environment that holds the libraries to compare with; those that are missing are left out. Each transform
of the recipe is drawn alone, many times, and the median taken; the expected cost of a patch is the sum of these medians
weighted by the recipe's probabilities. What each needs to read (we: the box of the drawn transform, the libraries: an
oversized crop) lies ready in memory. batchgenerators runs with linear interpolation as the recipe says, and once more
with the cubic one that nnU-Net 1 used it with.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoseg3d.augment import apply, draw, read_box
from autoseg3d.augment.reference import ReferencePipeline
from autoseg3d.errors import UsageError
from autoseg3d.patches.positions import loader_crop_shape
from planners.plan import AugmentationPlan

# Runs a plan with a seed and gives the seconds of CPU time it took.
Run = Callable[[AugmentationPlan, int], float]
Case = tuple[torch.Tensor, torch.Tensor]
Patch = tuple[int, int, int]

_OFF = {
    f"{name}_probability": 0.0
    for name in ("rotation", "scale", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma_inverted", "gamma")
}


def parts(recipe: AugmentationPlan) -> dict[str, tuple[float, AugmentationPlan]]:
    """For each part of the recipe: the chance that a channel meets it, and the plan that always draws it and no other."""

    def only(*names: str) -> AugmentationPlan:
        on = {f"{name}_probability": 1.0 for name in names}
        return recipe.model_copy(update={**_OFF, "blur_channel_probability": 1.0, "low_resolution_channel_probability": 1.0, **on})

    turn, scale = recipe.rotation_probability, recipe.scale_probability
    return {
        "crop and mirror only": (1.0, only()),
        "rotation": (turn * (1 - scale), only("rotation")),
        "scale": ((1 - turn) * scale, only("scale")),
        "rotation and scale": (turn * scale, only("rotation", "scale")),
        "noise": (recipe.noise_probability, only("noise")),
        "blur": (recipe.blur_probability * recipe.blur_channel_probability, only("blur")),
        "brightness": (recipe.brightness_probability, only("brightness")),
        "contrast": (recipe.contrast_probability, only("contrast")),
        "low resolution": (recipe.low_resolution_probability * recipe.low_resolution_channel_probability, only("low_resolution")),
        "gamma inverted": (recipe.gamma_inverted_probability, only("gamma_inverted")),
        "gamma": (recipe.gamma_probability, only("gamma")),
    }


def synthetic(shape: tuple[int, ...], channels: int, labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Balls of different labels with texture."""
    rng = np.random.default_rng(0)
    where = np.indices(shape, dtype=np.float32)
    label_map = np.zeros(shape, dtype=np.int16)
    for i in range(4 * labels):
        centre = rng.uniform(0.2, 0.8, 3) * shape
        distance = sum((w - c) ** 2 for w, c in zip(where, centre, strict=True))
        label_map[distance < (rng.uniform(0.04, 0.12) * max(shape)) ** 2] = 1 + i % labels
    image = rng.standard_normal((channels, *shape), dtype=np.float32) + label_map
    return torch.from_numpy(image), torch.from_numpy(label_map)


def real(image: Path, label: Path, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """A NIfTI case, z-scored, repeated up to the size of the crop where it is smaller."""
    import nibabel

    arrays = [np.asarray(nibabel.load(path).dataobj, dtype=np.float32).T for path in (image, label)]
    pads = [(0, max(0, n - m)) for n, m in zip(shape, arrays[0].shape, strict=True)]
    picture, label_map = (np.pad(a, pads, mode="wrap")[tuple(slice(0, n) for n in shape)] for a in arrays)
    picture = (picture - picture.mean()) / picture.std()
    return torch.from_numpy(np.ascontiguousarray(picture)[None]), torch.from_numpy(np.ascontiguousarray(label_map).astype(np.int16))


def ours(case: Case, patch: Patch) -> Run:
    image, labels = case

    def run(plan: AugmentationPlan, seed: int) -> float:
        drawn = draw(plan, np.random.default_rng(seed), channels=len(image), patch_size=patch, mirror_axes=(0, 1, 2))
        _, shape = read_box(drawn)
        box = tuple(slice(max(0, (n - m) // 2), max(0, (n - m) // 2) + m) for n, m in zip(labels.shape, shape, strict=True))
        pads = [p for n, b in reversed(list(zip(labels.shape, box, strict=True))) for p in (0, max(0, b.stop - n))]
        data = torch.nn.functional.pad(image[(slice(None), *box)], pads).contiguous()
        target = torch.nn.functional.pad(labels[box], pads, value=-1).contiguous()
        return seconds(lambda: apply(data, target, drawn))

    return run


def batchgenerators(case: Case, patch: Patch, *, order: int = 1) -> Run:
    image, labels = (tensor.numpy()[None] for tensor in case)
    labels = labels[None].astype(np.float32)
    made: dict[str, ReferencePipeline] = {}

    def run(plan: AugmentationPlan, seed: int) -> float:
        key = plan.content_hash()
        if key not in made:
            made[key] = ReferencePipeline(plan, channels=image.shape[1], patch_size=patch, mirror_axes=(0, 1, 2), order=order)
        return seconds(lambda: made[key].transform(image, labels, seed))

    return run


def batchgenerators_cubic(case: Case, patch: Patch) -> Run:
    return batchgenerators(case, patch, order=3)


def batchgeneratorsv2(case: Case, patch: Patch) -> Run:
    """nnU-Net 2's own pipeline and settings, with the probabilities of the plan."""
    from batchgeneratorsv2.transforms.intensity import brightness, contrast, gamma, gaussian_noise
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    limit = np.pi / 6
    around = {limits: contrast.BGContrast(limits) for limits in ((0.75, 1.25), (0.7, 1.5))}
    blur = GaussianBlurTransform((0.5, 1.0), p_per_channel=1.0, benchmark=True)

    def build(plan: AugmentationPlan) -> list[Any]:
        spatial = SpatialTransform(
            patch, patch_center_dist_from_border=0, random_crop=False, p_rotation=plan.rotation_probability, rotation=(-limit, limit),
            p_scaling=plan.scale_probability, scaling=(0.7, 1.4), p_synchronize_scaling_across_axes=1, border_mode_seg="constant",
            padding_value_seg=-1,
        )  # fmt: skip
        low = SimulateLowResolutionTransform(
            scale=(0.5, 1), synchronize_channels=False, synchronize_axes=True, ignore_axes=None, p_per_channel=1.0
        )
        noise = gaussian_noise.GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_channel=1, synchronize_channels=True)
        bright = brightness.MultiplicativeBrightnessTransform(around[0.75, 1.25], synchronize_channels=False)
        sharp = contrast.ContrastTransform(around[0.75, 1.25], preserve_range=True, synchronize_channels=False)
        bends = [
            gamma.GammaTransform(around[0.7, 1.5], p_invert_image=p, synchronize_channels=False, p_per_channel=1, p_retain_stats=1)
            for p in (1, 0)
        ]
        return [
            spatial,
            RandomTransform(noise, plan.noise_probability),
            RandomTransform(blur, plan.blur_probability),
            RandomTransform(bright, plan.brightness_probability),
            RandomTransform(sharp, plan.contrast_probability),
            RandomTransform(low, plan.low_resolution_probability),
            RandomTransform(bends[0], plan.gamma_inverted_probability),
            RandomTransform(bends[1], plan.gamma_probability),
            MirrorTransform((0, 1, 2)),
        ]

    made: dict[str, list[Any]] = {}

    def run(plan: AugmentationPlan, seed: int) -> float:
        np.random.seed(seed)
        torch.manual_seed(seed)
        sample = {"image": case[0].clone(), "segmentation": case[1][None]}
        transforms = made.setdefault(plan.content_hash(), build(plan))
        return seconds(lambda: functools.reduce(lambda data, transform: transform(**data), transforms, sample))

    return run


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def median_ms(run: Run, plan: AugmentationPlan, draws: int) -> float:
    run(plan, 10_000)
    return 1000 * statistics.median(run(plan, seed) for seed in range(draws))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=(128, 128, 128))
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--labels", type=int, default=4)
    parser.add_argument("--draws", type=int, default=7)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--label", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    patch, recipe = tuple(options.patch), AugmentationPlan()
    crop = loader_crop_shape(patch, recipe, slicewise=False)
    case = real(options.image, options.label, crop) if options.image else synthetic(crop, options.channels, options.labels)
    runs: dict[str, Run] = {}
    for make in (ours, batchgeneratorsv2, batchgenerators, batchgenerators_cubic):
        try:
            run = make(case, patch)
            run(recipe, 0)
            runs[make.__name__] = run
        except (ImportError, UsageError):
            print(f"{make.__name__} is not installed: left out")
    expected = dict.fromkeys(runs, 0.0)
    print(f"patch {patch}, crop {crop}, {len(case[0])} channels, {len(np.unique(case[1].numpy()))} label values: median CPU ms")
    print(f"{'part':22}{'chance':>8}" + "".join(f"{name:>22}" for name in runs))
    base: dict[str, float] = {}
    for part, (chance, plan) in parts(recipe).items():
        row = {name: median_ms(run, plan, options.draws) for name, run in runs.items()}
        base = base or row
        for name, cost in row.items():
            expected[name] += chance * (cost - (base[name] if row is not base else 0.0))
        print(f"{part:22}{chance:8.3f}" + "".join(f"{cost:22.2f}" for cost in row.values()), flush=True)
    print(f"{'expected per patch':30}" + "".join(f"{cost:22.2f}" for cost in expected.values()))
    print(f"{'times ours':30}" + "".join(f"{cost / expected['ours']:22.2f}" for cost in expected.values()))


if __name__ == "__main__":
    main()
