"""Applying a record: registration of image and labels, identity, masks, determinism."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg3d.augment import Drawn, Noise, apply, apply_batch, draw, read_box
from planners.plan import AugmentationPlan

PATCH = (18, 24, 21)
NAMES = [name for name in AugmentationPlan.model_fields if name.endswith("_probability")]
EVERYTHING = AugmentationPlan(**dict.fromkeys(NAMES, 1.0))


def blobs(shape: tuple[int, ...], *, seed: int = 0) -> torch.Tensor:
    """A smooth label map with values 0, 1 and 2."""
    z, y, x = np.indices(shape) / 6.0 + seed
    return torch.from_numpy((1 + np.round(np.sin(z) + np.cos(y + x / 2))).clip(0, 2).astype(np.int16))


def ready(drawn: Drawn, *, extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    _, shape = read_box(drawn)
    labels = blobs(shape)
    return torch.randn((drawn.channels + extra, *shape), generator=torch.Generator().manual_seed(1)), labels


def test_nothing_drawn_is_the_identity_and_a_copy() -> None:
    image, labels = ready(Drawn(patch_size=PATCH, channels=2))
    new_image, new_labels = apply(image, labels, Drawn(patch_size=PATCH, channels=2))
    assert torch.equal(new_image, image)
    assert torch.equal(new_labels, labels)
    new_image += 1
    new_labels += 1
    assert not torch.equal(new_image, image)
    assert not torch.equal(new_labels, labels)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_labels_are_mirrored_with_the_image(axes: tuple[int, ...]) -> None:
    drawn = Drawn(patch_size=PATCH, channels=2, mirror=axes)
    image, labels = ready(drawn)
    new_image, new_labels = apply(image, labels, drawn)
    assert torch.equal(new_image, image.flip([axis + 1 for axis in axes]))
    assert torch.equal(new_labels, labels.flip(axes))


def test_image_that_equals_the_labels_stays_equal_up_to_interpolation() -> None:
    rng = np.random.default_rng(2)
    plan = AugmentationPlan(**{name: float("rotation" in name or "scale" in name) for name in NAMES})
    for _ in range(10):
        drawn = draw(plan, rng, channels=1, patch_size=(32, 36, 40), mirror_axes=(0, 1, 2))
        _, shape = read_box(drawn)
        labels = blobs(shape)
        image, moved = apply(labels[None].float(), labels, drawn)
        difference = (image[0] - moved).abs()
        assert float(difference.max()) <= 1.0
        assert float((difference < 1e-3).float().mean()) > 0.5
        assert torch.equal(moved[difference < 0.49], image[0][difference < 0.49].round().to(torch.int16))


def test_inputs_are_never_changed() -> None:
    rng = np.random.default_rng(5)
    for plan in (EVERYTHING, EVERYTHING.model_copy(update={"rotation_probability": 0.0, "scale_probability": 0.0})):
        drawn = draw(plan, rng, channels=2, patch_size=PATCH, mirror_axes=(0, 1, 2))
        image, labels = ready(drawn)
        kept = image.clone(), labels.clone()
        new_image, new_labels = apply(image, labels, drawn)
        assert torch.equal(image, kept[0])
        assert torch.equal(labels, kept[1])
        assert new_image.shape == (2, *PATCH)
        assert new_labels.shape == PATCH
        assert (new_image.dtype, new_labels.dtype) == (torch.float32, torch.int16)
        assert new_image.is_contiguous()
        assert new_labels.is_contiguous()
        assert bool(torch.isfinite(new_image).all())


def test_intensity_transforms_leave_labels_alone_and_work_per_channel() -> None:
    drawn = Drawn(patch_size=PATCH, channels=2, brightness=(0.8, 1.0), low_resolution=(None, 0.5), noise=None)
    image, labels = ready(drawn)
    new_image, new_labels = apply(image, labels, drawn)
    assert torch.equal(new_labels, labels)
    torch.testing.assert_close(new_image[0], image[0] * 0.8)
    assert not torch.allclose(new_image[1], image[1])


def test_transforms_come_in_the_recipes_order() -> None:
    """Brightness before noise would scale nothing of the noise: noise comes first, so its spread is scaled too."""
    drawn = Drawn(patch_size=(20, 20, 20), channels=1, noise=Noise(sigma=0.1, seed=1), brightness=(1.25,))
    image, _ = apply(torch.zeros((1, 20, 20, 20)), torch.zeros((20, 20, 20), dtype=torch.int16), drawn)
    assert float(image.std()) == pytest.approx(0.125, rel=0.03)


@pytest.mark.parametrize("spatial", [True, False])
def test_one_hot_channels_move_like_labels_and_keep_their_values(spatial: bool) -> None:
    drawn = draw(EVERYTHING, np.random.default_rng(11), channels=1, patch_size=PATCH, mirror_axes=(0, 1, 2))
    if not spatial:
        drawn = drawn.model_copy(update={"rotation_degrees": None, "scale": None})
    image, labels = ready(drawn, extra=2)
    for i in (0, 1):
        image[1 + i] = labels == i + 1
    new_image, new_labels = apply(image, labels, drawn)
    assert new_image.shape == (3, *PATCH)
    for i in (0, 1):
        assert torch.equal(new_image[1 + i], (new_labels == i + 1).float())


def test_batch_is_each_sample_by_itself() -> None:
    rng = np.random.default_rng(3)
    records = [draw(EVERYTHING, rng, channels=1, patch_size=PATCH, mirror_axes=(0, 1, 2)) for _ in range(3)]
    pairs = [ready(record) for record in records]
    images, labels = apply_batch([image for image, _ in pairs], [label for _, label in pairs], records)
    assert images.shape == (3, 1, *PATCH)
    assert labels.shape == (3, *PATCH)
    for i, record in enumerate(records):
        image, label = apply(*pairs[i], record)
        assert torch.equal(images[i], image)
        assert torch.equal(labels[i], label)


def test_wrong_shapes_are_refused() -> None:
    drawn = Drawn(patch_size=PATCH, channels=1, scale=1.2)
    image, labels = ready(drawn)
    for bad in ((image[:, 1:], labels), (image, labels[1:]), (image[:0], labels)):
        with pytest.raises(ValueError, match="wanted an image"):
            apply(*bad, drawn)


def digest() -> str:
    drawn = draw(EVERYTHING, np.random.default_rng((4, 5, 6)), channels=2, patch_size=PATCH, mirror_axes=(0, 1))
    image, labels = ready(drawn)
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in apply(image, labels, drawn))).hexdigest()


def test_two_processes_agree_to_the_bit(repository_root: Path) -> None:
    command = [sys.executable, "-c", "import torch, test_augment_applying as t; torch.set_num_threads(1); print(t.digest())"]
    paths = os.pathsep.join((str(repository_root), str(Path(__file__).parent)))
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": paths})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert run.stdout.strip() == digest()
    torch.set_num_threads(threads)
