"""Ours against the batchgenerators library, transform by transform, in distribution, on real patches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from autoseg3d.augment import apply, draw, read_box
from autoseg3d.augment.reference import ReferencePipeline
from autoseg3d.patches.positions import loader_crop_shape
from planners.plan import AugmentationPlan

pytest.importorskip("batchgenerators")

# Every axis of this patch and of nnU-Net's crops for it are both even: a crop's middle is then the patch's middle.
PATCH = (24, 28, 24)
DRAWS = 60
Crop = tuple[torch.Tensor, torch.Tensor]
OFF = {name: 0.0 for name in AugmentationPlan.model_fields if name.endswith("_probability")}


def only(name: str, **ranges: object) -> AugmentationPlan:
    channels = {"blur_channel_probability": 1.0, "low_resolution_channel_probability": 1.0}
    return AugmentationPlan.model_validate({**OFF, **channels, f"{name}_probability": 1.0, **ranges})


@pytest.fixture(scope="module")
def case(shared_data: Path) -> tuple[np.ndarray, np.ndarray]:
    """A hippocampus: image (Z, Y, X), z-scored, and labels."""
    nibabel = pytest.importorskip("nibabel")
    folder = shared_data / "Hippocampus"
    paths = folder / "imagesTr" / "hippocampus_001_0000.nii.gz", folder / "labelsTr" / "hippocampus_001.nii.gz"
    if not all(path.is_file() for path in paths):
        pytest.skip("the case is not there")
    image, labels = (np.asarray(nibabel.load(path).dataobj, dtype=np.float32).T for path in paths)
    return (image - image.mean()) / image.std(), labels.astype(np.int16)


def crop_for(case: tuple[np.ndarray, np.ndarray], plan: AugmentationPlan) -> Crop:
    """nnU-Net's crop about the middle of the case: (1, *crop) and (*crop)."""
    shape = loader_crop_shape(PATCH, plan, slicewise=False)
    return torch.from_numpy(_centred(case[0], shape, 0)[None]), torch.from_numpy(_centred(case[1], shape, -1))


@pytest.fixture(scope="module")
def crop(case: tuple[np.ndarray, np.ndarray]) -> Crop:
    return crop_for(case, AugmentationPlan())


def _centred(array: np.ndarray, shape: tuple[int, ...], fill: float) -> np.ndarray:
    pads = [(max(0, (n - m) // 2), max(0, n - m - (n - m) // 2)) for n, m in zip(shape, array.shape, strict=True)]
    padded = np.pad(array, pads, constant_values=fill)
    cut = tuple(slice((m - n) // 2, (m - n) // 2 + n) for n, m in zip(shape, padded.shape, strict=True))
    return np.ascontiguousarray(padded[cut])


def ours(crop: Crop, plan: AugmentationPlan, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = draw(plan, np.random.default_rng(seed), channels=1, patch_size=PATCH, mirror_axes=())
    offset, shape = read_box(drawn)
    starts = [c // 2 - p // 2 + o for c, p, o in zip(crop[1].shape, PATCH, offset, strict=True)]
    low = [max(0, -s) for s in starts]
    cut = tuple(slice(max(0, s), s + n) for s, n in zip(starts, shape, strict=True))
    boxes = []
    for tensor, fill in ((crop[0][(slice(None), *cut)], 0), (crop[1][cut], -1)):
        missing = [n - m - b for n, m, b in zip(shape, tensor.shape[-3:], low, strict=True)]
        pads = [v for before, after in reversed(list(zip(low, missing, strict=True))) for v in (before, after)]
        boxes.append(torch.nn.functional.pad(tensor, pads, value=fill))
    image, labels = apply(*boxes, drawn)
    return image[0].numpy(), labels.numpy()


def both(crop: Crop, plan: AugmentationPlan, draws: int = DRAWS) -> tuple[list, list]:
    pipeline = ReferencePipeline(plan, channels=1, patch_size=PATCH, mirror_axes=())
    theirs = []
    for seed in range(draws):
        image, labels = pipeline(*crop, seed)
        theirs.append((image[0].numpy(), labels.numpy()))
    return [ours(crop, plan, seed=1000 + seed) for seed in range(draws)], theirs


def assert_alike(first: list[float], second: list[float]) -> None:
    """Means within three standard errors or 5 %, and no sign of different distributions."""
    a, b = np.round(first, 5), np.round(second, 5)  # differences of rounding are none
    spread = 3 * np.sqrt(a.var() / len(a) + b.var() / len(b))
    assert abs(a.mean() - b.mean()) <= max(spread, 0.05 * abs(b.mean()))
    assert stats.ks_2samp(a, b).pvalue > 1e-3


def test_nothing_drawn_is_the_same_crop(crop: Crop) -> None:
    (image, labels), (their_image, their_labels) = (side[0] for side in both(crop, AugmentationPlan.model_validate(OFF), 1))
    np.testing.assert_array_equal(image, their_image)
    np.testing.assert_array_equal(labels, their_labels)


@pytest.mark.parametrize(
    "plan",
    [only("rotation"), only("rotation", rotation_degrees=(180, 0, 0), dummy_2d=True), only("scale", scale=(1.0, 1.4))],
    ids=["rotation", "rotation in the plane", "scale"],
)
def test_rotation_and_scale(case: tuple[np.ndarray, np.ndarray], plan: AugmentationPlan) -> None:
    crop = crop_for(case, plan)
    plain = ours(crop, AugmentationPlan.model_validate(OFF), seed=0)
    mine, theirs = both(crop, plan)
    for label in (1, 2):
        volumes = [[float((labels == label).sum()) for _, labels in side] for side in (mine, theirs)]
        assert_alike(*volumes)
        overlap = [[float(((labels == label) & (plain[1] == label)).sum()) for _, labels in side] for side in (mine, theirs)]
        assert_alike(*overlap)
        # The mean intensity under a label hardly changes where image and labels stay registered.
        inside = [np.mean([image[labels == label].mean() for image, labels in side]) for side in (mine, theirs)]
        assert inside[0] == pytest.approx(inside[1], abs=0.03)
    for moment in (np.mean, np.std):
        assert_alike(*[[float(moment(image)) for image, _ in side] for side in (mine, theirs)])


@pytest.mark.parametrize("name", ["noise", "brightness", "contrast", "gamma", "gamma_inverted", "low_resolution", "blur"])
def test_intensity_transforms(crop: Crop, name: str) -> None:
    plain, _ = ours(crop, AugmentationPlan.model_validate(OFF), seed=0)
    mine, theirs = both(crop, only(name))
    statistics = {
        "distance": lambda image: np.abs(image - plain).mean(),
        "mean": lambda image: (image - plain).mean(),
        "deviation": lambda image: image.std(),
        "low": lambda image: np.quantile(image, 0.05),
        "high": lambda image: np.quantile(image, 0.95),
        "roughness": lambda image: np.abs(np.diff(image, axis=2)).mean(),
    }
    for what, statistic in statistics.items():
        first, second = ([float(statistic(image)) for image, _ in side] for side in (mine, theirs))
        if name in ("blur", "low_resolution") and what != "distance":
            # Other edges, kernels and grids: alike to a few percent of the image's deviation, not identical.
            assert np.mean(first) == pytest.approx(np.mean(second), abs=0.03 * float(plain.std()))
        elif np.ptp(second) > 1e-4:
            assert_alike(first, second)


def test_full_recipe_has_the_same_histogram(crop: Crop) -> None:
    mine, theirs = both(crop, AugmentationPlan(), 100)
    quantiles = [np.mean([np.quantile(image, np.linspace(0.05, 0.95, 10)) for image, _ in side], axis=0) for side in (mine, theirs)]
    np.testing.assert_allclose(quantiles[0], quantiles[1], atol=0.08)
    shares = [[np.mean([(labels == label).mean() for _, labels in side]) for label in (0, 1, 2)] for side in (mine, theirs)]
    np.testing.assert_allclose(shares[0][1:], shares[1][1:], rtol=0.12)


def test_seed_decides_and_global_generators_stay(crop: Crop) -> None:
    pipeline = ReferencePipeline(AugmentationPlan(noise_probability=1.0), channels=1, patch_size=PATCH, mirror_axes=(0, 1, 2))
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    first, again, other = (pipeline(*crop, seed)[0] for seed in (1, 1, 2))
    assert np.random.random() == expected
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("patch", [(1, 28, 24), PATCH])
def test_masks_move_with_the_labels(crop: Crop, patch: tuple[int, int, int]) -> None:
    pipeline = ReferencePipeline(only("rotation"), channels=1, patch_size=patch, mirror_axes=(1, 2))
    image, labels = (crop[0][:, 20:21], crop[1][20:21]) if patch[0] == 1 else crop
    masks = torch.stack([(labels == 1).float(), (labels == 2).float()])
    assert masks.sum() > 0
    new_image, new_labels = pipeline(torch.cat((image, masks)), labels, 4)
    assert new_image.shape == (3, *patch)
    for i in (0, 1):
        assert torch.equal(new_image[1 + i], (new_labels == i + 1).float())
