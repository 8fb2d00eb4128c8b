"""Sliding windows: nnU-Net's layout and weights, and streaming that gives what adding everything up gives."""

import gc
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from autoseg3d.errors import ModelError
from autoseg3d.sliding_window import (
    OneHot,
    WindowOptions,
    axis_starts,
    gaussian_weights,
    mirror_combinations,
    predict_slabs,
    slab_bytes,
    uses_features,
    window_starts,
)


class Constant(nn.Module):
    """Gives the same logits everywhere."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (torch.stack([torch.full_like(x[:, 0], value) for value in self.values], dim=1),)


class Copy(nn.Module):
    """Gives its own input back, the very same tensor."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x,)


class Convolution(nn.Module):
    """A small random network with features and a linear head."""

    def __init__(self, inputs: int, classes: int, *, width: int = 4, kernel: Sequence[int] = (3, 3, 3), seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv3d(inputs, width, tuple(kernel), padding=tuple(k // 2 for k in kernel))
        self.head = nn.Conv3d(width, classes, 1)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x)) + 0.1 * x.mean(dim=(1, 2, 3, 4), keepdim=True)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.head(self.features(x)),)


def direct(
    image: Tensor, networks: Sequence[nn.Module], patch: tuple[int, int, int], *, step: float = 0.5, axes: Sequence[int] = ()
) -> Tensor:
    """The textbook way: pad the image, add up weighted logits and weights in float64, divide, cut the padding off."""
    shape = image.shape[1:]
    padded = [max(n, p) for n, p in zip(shape, patch, strict=True)]
    low = [(m - n) // 2 for m, n in zip(padded, shape, strict=True)]
    room = torch.zeros((len(image), *padded))
    inner = tuple(slice(a, a + n) for a, n in zip(low, shape, strict=True))
    room[(slice(None), *inner)] = image
    weights = gaussian_weights(patch).double()
    total, norm = None, torch.zeros(padded, dtype=torch.float64)
    with torch.no_grad():
        for start in window_starts(tuple(padded), patch, step):
            box = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
            window = room[(slice(None), *box)][None]
            outputs = []
            for network in networks:
                for flips in itertools.chain.from_iterable(itertools.combinations(axes, n) for n in range(len(axes) + 1)):
                    dims = [a + 2 for a in flips]
                    outputs.append(network(window.flip(dims))[0].flip(dims)[0].double())
            mean = torch.stack(outputs).mean(dim=0)
            total = torch.zeros((len(mean), *padded), dtype=torch.float64) if total is None else total
            total[(slice(None), *box)] += mean * weights
            norm[box] += weights
    assert total is not None
    return (total / norm)[(slice(None), *inner)].float()


def streamed(image: Tensor, networks: Sequence[nn.Module], options: WindowOptions, num_classes: int, **more: object) -> Tensor:
    """All slabs put together, after checking that they follow each other."""
    parts, row = [], 0
    for slab in predict_slabs(image, networks, options, num_classes=num_classes, **more):  # type: ignore[arg-type]
        assert slab.start == row
        parts.append(slab.logits.clone())
        row += slab.logits.shape[1]
    assert row == image.shape[1]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(
    ("size", "patch", "step", "starts"),
    [
        (40, 40, 0.5, (0,)),
        (41, 40, 0.5, (0, 1)),
        (60, 40, 0.5, (0, 20)),
        (61, 40, 0.5, (0, 10, 21)),
        (100, 40, 0.5, (0, 20, 40, 60)),
        (300, 128, 0.5, (0, 57, 115, 172)),
        (300, 128, 1.0, (0, 86, 172)),
        (5, 1, 0.5, (0, 1, 2, 3, 4)),
        (7, 1, 1.0, (0, 1, 2, 3, 4, 5, 6)),
    ],
)
def test_starts_along_an_axis(size: int, patch: int, step: float, starts: tuple[int, ...]) -> None:
    assert axis_starts(size, patch, step) == starts


def test_starts_need_room_and_a_step() -> None:
    with pytest.raises(ValueError, match="size 3, patch 4"):
        axis_starts(3, 4)
    with pytest.raises(ValueError, match="step 0"):
        axis_starts(5, 4, 0)


def test_windows_cover_every_voxel() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        patch = tuple(int(n) for n in rng.integers(1, 9, 3))
        shape = tuple(p + int(n) for p, n in zip(patch, rng.integers(0, 20, 3), strict=True))
        seen = np.zeros(shape, bool)
        starts = window_starts(shape, patch, float(rng.uniform(0.2, 1)))  # type: ignore[arg-type]
        assert starts == sorted(starts)
        for z, y, x in starts:
            seen[z : z + patch[0], y : y + patch[1], x : x + patch[2]] = True
        assert seen.all()


@pytest.mark.parametrize("patch", [(16, 24, 8), (7, 5, 9), (1, 32, 32), (2, 1, 3)])
def test_weights_are_a_filtered_point(patch: tuple[int, int, int]) -> None:
    point = np.zeros(patch)
    point[tuple(p // 2 for p in patch)] = 1
    wanted = gaussian_filter(point, [p / 8 for p in patch], mode="constant", cval=0)
    weights = gaussian_weights(patch)
    assert weights.dtype == torch.float32
    assert np.allclose(weights.numpy(), 10 * wanted / wanted.max(), rtol=1e-5, atol=0)
    assert float(weights.max()) == 10
    assert float(weights.min()) >= 3.7e-10


def test_mirror_combinations() -> None:
    assert mirror_combinations(()) == ((),)
    assert mirror_combinations((2, 0)) == ((), (0,), (2,), (0, 2))
    assert len(mirror_combinations((0, 1, 2))) == 8


@pytest.mark.parametrize("shape", [(30, 21, 17), (3, 40, 9), (1, 1, 1), (8, 8, 8)])
def test_a_constant_network_leaves_no_seam(shape: tuple[int, int, int]) -> None:
    image = torch.randn((1, *shape))
    options = WindowOptions(patch=(8, 8, 8), mirror_axes=(0, 1, 2), batch_size=3)
    logits = streamed(image, [Constant(3.0, -1.0), Constant(5.0, -2.0)], options, 2)
    assert logits.shape == (2, *shape)
    assert torch.allclose(logits[0], torch.tensor(4.0), atol=1e-5)
    assert torch.allclose(logits[1], torch.tensor(-1.5), atol=1e-5)


@pytest.mark.parametrize("axes", [(), (1,), (0, 1, 2)])
def test_a_network_that_copies_gives_the_image_back(axes: tuple[int, ...]) -> None:
    image = torch.randn((3, 19, 8, 25))
    logits = streamed(image, [Copy()], WindowOptions(patch=(6, 8, 10), step=0.4, mirror_axes=axes), 3)
    assert torch.allclose(logits, image, atol=1e-5)


CASES = [
    pytest.param((20, 22, 19), (8, 8, 8), 0.5, (0, 1, 2), 1, id="mirrored"),
    pytest.param((9, 40, 33), (4, 16, 12), 0.5, (1, 2), 2, id="anisotropic"),
    pytest.param((5, 6, 7), (8, 8, 8), 0.5, (), 1, id="smaller than the patch"),
    pytest.param((20, 5, 30), (8, 8, 8), 0.7, (0,), 4, id="smaller along one axis"),
    pytest.param((1, 1, 1), (4, 4, 4), 0.5, (0, 1, 2), 1, id="one voxel"),
    pytest.param((7, 20, 21), (1, 8, 8), 0.5, (1, 2), 5, id="slice by slice"),
]


@pytest.mark.parametrize(("shape", "patch", "step", "axes", "batch"), CASES)
@pytest.mark.parametrize("classes", [3, 30])
def test_streaming_equals_adding_everything_up(
    shape: tuple[int, int, int], patch: tuple[int, int, int], step: float, axes: tuple[int, ...], batch: int, classes: int
) -> None:
    image = torch.randn((2, *shape))
    networks = [Convolution(2, classes, seed=seed) for seed in range(3)]
    assert uses_features(networks, classes) == (classes == 30)
    wanted = direct(image, networks, patch, step=step, axes=axes)
    logits = streamed(image, networks, WindowOptions(patch=patch, step=step, mirror_axes=axes, batch_size=batch), classes)
    assert torch.allclose(logits, wanted, atol=2e-5)
    assert float((logits.argmax(0) == wanted.argmax(0)).float().mean()) >= 0.99999


@pytest.mark.parametrize("classes", [3, 30])
def test_a_band_is_the_same_rows(classes: int) -> None:
    image, networks = torch.randn((1, 14, 37, 10)), [Convolution(1, classes)]
    options = WindowOptions(patch=(8, 8, 8), mirror_axes=(1,))
    whole = streamed(image, networks, options, classes)
    for first, last in ((0, 37), (0, 5), (11, 30), (36, 37)):
        assert torch.allclose(streamed(image, networks, options, classes, band=(first, last)), whole[:, :, first:last], atol=1e-5)


def test_a_band_computes_only_the_windows_it_needs() -> None:
    counts = []
    options = WindowOptions(patch=(8, 8, 8))
    for band in ((0, 64), (0, 8)):
        list(predict_slabs(torch.zeros(1, 8, 64, 8), [Copy()], options, num_classes=1, band=band, progress=lambda *a: counts.append(a)))
    assert counts[14] == ("windows", 15, 15)
    assert counts[-1] == ("windows", 2, 2)


def test_labels_of_an_earlier_stage_become_channels() -> None:
    labels = torch.from_numpy(np.random.default_rng(0).integers(-1, 4, (11, 12, 13)))
    image = torch.randn((1, 11, 12, 13))
    previous = OneHot(labels, members=((1,), (2, 3)))
    logits = streamed(image, [Copy()], WindowOptions(patch=(6, 16, 8)), 3, previous=previous)
    wanted = torch.stack([image[0], (labels == 1).float(), ((labels == 2) | (labels == 3)).float()])
    assert torch.allclose(logits, wanted, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ModelError, match="E_NETWORK_NONFINITE"):
        streamed(torch.zeros(1, 9, 9, 9), [Constant(value, 0.0)], WindowOptions(patch=(8, 8, 8)), 2)


def test_memory_is_a_slab_not_a_scan() -> None:
    """Twice the length, the same memory; and it is about what slab_bytes says."""
    networks, options = [Constant(*range(8))], WindowOptions(patch=(8, 16, 16))

    def peak(length: int) -> int:
        image = torch.zeros(1, length, 64, 64)
        largest = 0
        for _ in predict_slabs(image, networks, options, num_classes=8):
            held = sum(t.untyped_storage().nbytes() for t in _tensors() if t.numel() > 8 * 64 * 64)
            largest = max(largest, held - image.untyped_storage().nbytes())
        return largest

    short, long = peak(32), peak(64)
    assert long == short
    assert slab_bytes((64, 64, 64), (8, 16, 16), networks, 8) == 8 * 8 * 64 * 64 * 4


def _tensors() -> list[Tensor]:
    unique = {}
    for thing in gc.get_objects():
        if type(thing) is Tensor:
            unique.setdefault(thing.untyped_storage().data_ptr(), thing)
    return list(unique.values())


def test_gradients_stay_on_for_the_caller() -> None:
    """The generator must not leave inference mode switched on while it waits."""
    for _ in predict_slabs(torch.zeros(1, 20, 8, 8), [Convolution(1, 2)], WindowOptions(patch=(8, 8, 8)), num_classes=2):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
