"""Windows weighed in half precision: what nnU-Net's float16 sums give, as far as it can be seen in probabilities."""

import pytest
import torch
from torch import Tensor, nn

from autoseg3d.sliding_window import WindowOptions, gaussian_weights, mirror_combinations, predict_slabs, slab_bytes, window_starts
from planners.contract import Triple


class Confident(nn.Module):
    """Logits of the size that trained networks give, different for every voxel of a window and every seed."""

    def __init__(self, classes: int, seed: int) -> None:
        super().__init__()
        self.scale = 8 * torch.randn(classes, generator=torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x * self.scale[:, None, None, None],)


def in_half_precision(image: Tensor, networks: list[nn.Module], options: WindowOptions, classes: int) -> Tensor:
    """Weights, sums and quotients in float16, network after network, written down plainly."""
    weights = gaussian_weights(options.patch).half()
    weights[weights == 0] = weights[weights > 0].min()
    shape: Triple = (image.shape[1], image.shape[2], image.shape[3])
    flips, means = mirror_combinations(options.mirror_axes), []
    for network in networks:
        sums, totals = torch.zeros((classes, *shape), dtype=torch.half), torch.zeros(shape, dtype=torch.half)
        for start in window_starts(shape, options.patch):
            box = tuple(slice(s, s + p) for s, p in zip(start, options.patch, strict=True))
            window = image[(slice(None), *box)][None]
            logits = sum(network(window.flip([a + 2 for a in axes]))[0].flip([a + 2 for a in axes]) for axes in flips) / len(flips)
            sums[(slice(None), *box)] += logits[0] * weights
            totals[box] += weights
        means.append((sums / totals).float())
    return torch.stack(means).mean(dim=0)


@pytest.mark.parametrize(("shape", "axes", "count"), [((20, 24, 16), (), 1), ((18, 24, 30), (0, 2), 1), ((16, 20, 24), (0, 1, 2), 3)])
def test_probabilities_at_the_edges_are_those_of_half_precision(shape: Triple, axes: tuple[int, ...], count: int) -> None:
    image = torch.rand((1, *shape), generator=torch.Generator().manual_seed(1))
    networks: list[nn.Module] = [Confident(3, seed) for seed in range(count)]
    options = WindowOptions(patch=(16, 16, 16), mirror_axes=axes, half_weights=True)
    wanted = in_half_precision(image, networks, options, 3).softmax(dim=0)
    got, exact = (
        torch.cat([slab.logits.clone() for slab in predict_slabs(image, networks, chosen, num_classes=3)], dim=1).softmax(dim=0)
        for chosen in (options, WindowOptions(patch=(16, 16, 16), mirror_axes=axes))
    )
    assert float((got - wanted).abs().max()) < 5e-3
    assert float((exact - wanted).abs().max()) > 2e-2  # the test would notice


def test_batches_of_windows_and_bands_change_nothing() -> None:
    image = torch.rand((1, 20, 40, 24), generator=torch.Generator().manual_seed(2))
    networks: list[nn.Module] = [Confident(2, seed) for seed in range(2)]
    one, three = (
        torch.cat(
            [
                slab.logits.clone()
                for slab in predict_slabs(
                    image, networks, WindowOptions(patch=(16, 16, 16), batch_size=size, half_weights=True), num_classes=2, band=band
                )
            ],
            dim=1,
        )
        for size, band in ((1, None), (3, (11, 29)))
    )
    torch.testing.assert_close(one[:, :, 11:29], three, rtol=1e-5, atol=1e-5)


def test_the_sum_of_weights_is_counted_in_the_memory_of_the_slab() -> None:
    networks: list[nn.Module] = [Confident(2, 0)]
    sizes = [slab_bytes((20, 20, 20), (16, 16, 16), networks, 2, half_weights=half) for half in (False, True)]
    assert sizes[1] * 2 == sizes[0] * 3
