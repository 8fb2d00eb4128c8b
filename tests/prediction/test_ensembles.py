"""Ensembles: streamed member by member, the labels of averaging all members' probabilities in memory."""

from pathlib import Path

import numpy as np
import pytest
from textbook import fused
from tiny import LABELS, REGIONS, case, configuration, noise, plan, random_network
from torch import nn

from autoseg3d.prediction import Predictor, run_members
from autoseg3d.prediction.probabilities import probability_file
from planners.plan import Plan

FULL = plan(configuration(spacing=(1.5, 1.0, 0.8)))
COARSE = plan(configuration(spacing=(2.0, 1.6, 1.3)))
FLAT = plan(configuration((1, 16, 16), slicewise=True))
TURNED = plan(configuration(spacing=(1.1, 1.0, 1.2)), axis_order=(2, 0, 1), mirror_axes=(1,))
PARTED, JOINED = plan(labels=REGIONS), plan(configuration(spacing=(1.5, 1.6, 1.7)), labels=REGIONS, axis_order=(1, 0, 2))

SETS = [
    pytest.param([(FULL, 2), (COARSE, 1)], id="two spacings, two folds in one"),
    pytest.param([(FULL, 1), (FLAT, 1), (COARSE, 1)], id="three, one slice by slice"),
    pytest.param([(FULL, 1), (TURNED, 2)], id="one turned"),
    pytest.param([(TURNED, 1), (FULL, 1), (COARSE, 1)], id="two turned against the first"),
    pytest.param([(PARTED, 1), (plan(configuration(spacing=(1.4, 1.2, 1.1)), labels=REGIONS), 1)], id="regions"),
    pytest.param([(PARTED, 1), (JOINED, 1)], id="regions, one turned"),
]


def members(chosen: list[tuple[Plan, int]]) -> list[tuple[Plan, list[nn.Module], str]]:
    return [(p, [random_network(p, seed=10 * i + fold) for fold in range(folds)], "3d_fullres") for i, (p, folds) in enumerate(chosen)]


def predictors(chosen: list[tuple[Plan, list[nn.Module], str]], **more: object) -> list[Predictor]:
    return [Predictor(p, name, networks, device="cpu", precision="fp32", mirror=False, **more) for p, networks, name in chosen]  # type: ignore[arg-type]


@pytest.mark.parametrize("chosen", SETS)
@pytest.mark.parametrize("slab", [10**9, 60_000])
def test_labels_and_probabilities_equal_those_with_everything_in_memory(chosen: list[tuple[Plan, int]], slab: int, tmp_path: Path) -> None:
    scan, every = case(noise((14, 27, 21)), (1.2, 1.0, 0.9)), members(chosen)
    wanted, probabilities = fused(scan, every, mirror=False)
    made = predictors(every, slab_limit_bytes=slab)
    prepared = [predictor.prepare(scan) for predictor in made]
    labels = run_members(made, prepared, spill_folder=tmp_path).labels
    assert (labels == wanted).mean() >= 0.99999
    assert len(np.unique(wanted)) > 1
    with probability_file(tmp_path / "p.npz", prepared[0].working.placement, chosen[0][0].labels) as target:
        again = run_members(made, prepared, on_probabilities=target.write, spill_folder=tmp_path).labels
    assert (again == labels).mean() >= 0.99999
    with np.load(tmp_path / "p.npz") as archive:
        assert np.abs(archive["probabilities"] - probabilities).max() < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]


def test_a_cropped_scan_is_background_outside_in_every_member(tmp_path: Path) -> None:
    image = noise((16, 20, 18))
    image[:4] = 0
    image[:, :, 13:] = 0
    every = members([(FULL, 1), (TURNED, 1)])
    made = predictors(every)
    labels = run_members(made, [p.prepare(case(image)) for p in made], spill_folder=tmp_path).labels
    assert (labels == fused(case(image), every, mirror=False)[0]).mean() >= 0.99999
    assert not labels[:4].any()


def test_one_member_is_what_it_is_alone() -> None:
    [only] = predictors(members([(FULL, 2)]))
    prepared = only.prepare(case(noise((12, 14, 15))))
    assert (run_members([only], [prepared]).labels == only.run(prepared).labels).all()


def test_progress_of_members_in_bands_only_grows(tmp_path: Path) -> None:
    made = predictors(members([(FULL, 1), (TURNED, 1)]), slab_limit_bytes=50_000)
    told: list[tuple[str, int, int]] = []
    scan = case(noise((14, 27, 21)))
    run_members(made, [p.prepare(scan) for p in made], spill_folder=tmp_path, progress=lambda *a: told.append(a))
    done = [count for _, count, _ in told]
    assert done == sorted(done)
    assert told[-1] == ("windows", 1000, 1000)


# agreement of folds


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("slab", [10**9, 40_000])
def test_pairwise_dice_and_volumes_of_folds(labels: object, slab: int) -> None:
    """Against each fold predicted alone on a scan that lies on the working grid."""
    chosen = plan(labels=labels)  # type: ignore[arg-type]
    networks = [random_network(chosen, seed=seed) for seed in range(3)]
    scan = case(noise((11, 20, 13)))
    together = Predictor(chosen, "3d_fullres", networks, device="cpu", precision="fp32", mirror=False, slab_limit_bytes=slab)
    prediction = together.run(together.prepare(scan), apart=True)
    assert (prediction.labels == together.run(together.prepare(scan)).labels).mean() >= 0.99999
    alone = [fused(scan, [(chosen, [network], "3d_fullres")], mirror=False)[1] for network in networks]
    masks = [
        [probabilities[k] > 0.5 for k in range(2)] if chosen.labels.has_regions else [probabilities.argmax(0) == k for k in (1, 2)]
        for probabilities in alone
    ]
    [counts] = prediction.counts
    assert counts is not None
    for label, found in enumerate(counts.pairwise_dice()):
        pairs = [(masks[i][label], masks[j][label]) for i, j in ((0, 1), (0, 2), (1, 2))]
        dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs if a.any() or b.any()]
        assert found == (pytest.approx(np.mean(dice), abs=2e-3) if dice else None)
        assert counts.volumes_ml()[:, label] == pytest.approx([fold[label].sum() / 1000 for fold in masks], rel=1e-3, abs=1e-6)


def test_a_single_fold_has_nothing_to_agree_with() -> None:
    [only] = predictors(members([(FULL, 1)]))
    assert only.run(only.prepare(case(noise((9, 9, 9)))), apart=True).counts == (None,)
