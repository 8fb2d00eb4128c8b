"""The self-test of bfloat16: what it expects of averaging, and that it holds for real networks."""

import pytest
import torch

from autoseg3d.networks import build
from autoseg3d.prediction.precision import expected_agreement, foreground_agreement, labels_by, lowest_agreement, ready
from autoseg3d.sliding_window import WindowOptions
from planners.plan import NetworkPlan, Stage


def test_eight_copies_are_expected_to_halve_what_changes_and_two_to_change_nothing() -> None:
    assert expected_agreement(0.998, 8) == pytest.approx(0.999)
    assert expected_agreement(0.998, 2) == expected_agreement(0.998, 1) == 0.998
    assert expected_agreement(1.0, 8) == 1.0


def test_no_more_is_expected_of_mirrored_copies_than_they_give() -> None:
    """Networks without training have the finest margins between classes, so that many labels change."""
    stages = tuple(Stage(features=8 * 2**i, kernel=(3, 3, 3), stride=((i > 0) + 1,) * 3, blocks=2) for i in range(3))
    network_plan = NetworkPlan(architecture="unet", stages=stages, decoder_blocks=(2, 2))
    cpu, found = torch.device("cpu"), []
    for seed in range(2):
        torch.manual_seed(seed)
        network, image = build(network_plan, 1, 3).eval(), torch.randn(1, 24, 24, 24)
        exact, reduced = (ready([network], dtype, cpu) for dtype in (torch.float32, torch.bfloat16))
        alone, copied = (
            foreground_agreement(*(labels_by(members, image, options=options, num_classes=3) for members in (exact, reduced)))
            for options in (WindowOptions((24, 24, 24), mirror_axes=axes) for axes in ((), (0, 1, 2)))
        )
        assert alone is not None
        assert copied is not None
        found.append(copied - expected_agreement(alone, 8))
    assert sum(found) / len(found) > -1e-3  # of about 9e-3 that change without copies


@pytest.mark.parametrize("regions", [False, True])
def test_a_large_label_does_not_cover_for_a_small_one(regions: bool) -> None:
    labels = torch.zeros(100, 100, 30, dtype=torch.int64)
    labels[:, :, 10:] = 1
    labels[:50, :, :4] = 2
    others = labels.clone()
    others[0, :, :4] = 0
    assert foreground_agreement(labels, others) == pytest.approx(1 - 400 / 220_000)
    assert lowest_agreement(labels, others, regions=regions) == pytest.approx(2 * 19_600 / 39_600)


def test_labels_of_few_voxels_are_judged_together() -> None:
    labels = torch.zeros(100, 1000, dtype=torch.int64)
    labels[50:] = 1
    for k in range(20):
        labels[k, :100] = 2 + k
    others = labels.clone()
    others[0, 0] = 0  # one voxel of 2,000 in twenty labels
    assert lowest_agreement(labels, others) == pytest.approx(2 * 1999 / 3999)
    few = torch.where(labels < 4, labels, 0)
    assert lowest_agreement(few, torch.where(others < 4, others, 0)) == pytest.approx(1 - 1 / 50_200)
