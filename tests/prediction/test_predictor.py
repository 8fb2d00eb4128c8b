"""Predictor: the streamed way gives what the direct way gives, on the scan's own grid."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from textbook import textbook
from tiny import LABELS, REGIONS, PerVoxel, case, configuration, noise, plan, random_network, write_package
from torch import Tensor, nn

from autoseg3d.errors import ModelError, UsageError
from autoseg3d.package import add_fold, open_package
from autoseg3d.prediction import Predictor
from autoseg3d.prediction.attempts import Attempt
from autoseg3d.prediction.predictor import choose_configuration, choose_folds, missing_folds
from autoseg3d.preprocessing import preprocess
from planners.plan import Plan

CPU = torch.device("cpu")


CASES = [
    pytest.param(plan(), (20, 22, 18), (1.0, 1.0, 1.0), 1, id="equal grids"),
    pytest.param(plan(configuration(spacing=(1.5, 1.0, 0.8))), (20, 22, 18), (1.0, 1.2, 0.7), 3, id="resampled, three folds"),
    pytest.param(plan(configuration((4, 16, 16), (4.0, 1.0, 1.0))), (9, 30, 26), (5.0, 0.8, 1.1), 1, id="anisotropic"),
    pytest.param(plan(configuration((1, 16, 16), slicewise=True)), (6, 21, 30), (3.0, 1.3, 1.3), 2, id="slice by slice"),
    pytest.param(plan(axis_order=(2, 0, 1), mirror_axes=(1,)), (11, 20, 17), (1.0, 1.5, 1.2), 1, id="turned"),
    pytest.param(plan(labels=REGIONS), (13, 14, 15), (1.3, 1.3, 1.3), 2, id="regions"),
    pytest.param(plan(), (3, 4, 5), (1.0, 1.0, 1.0), 1, id="smaller than the patch"),
    pytest.param(plan(configuration((16, 16, 16))), (1, 1, 1), (1.0, 1.0, 1.0), 1, id="one voxel"),
]


@pytest.mark.parametrize(("chosen", "shape", "spacing", "folds"), CASES)
@pytest.mark.parametrize("mirror", [True, False])
def test_streaming_equals_the_direct_way(
    chosen: Plan, shape: tuple[int, int, int], spacing: tuple[float, float, float], folds: int, mirror: bool
) -> None:
    networks = [random_network(chosen, seed=seed) for seed in range(folds)]
    scan = case(noise(shape), spacing)
    prediction = Predictor(chosen, "3d_fullres", networks, device="cpu", precision="fp32", mirror=mirror).predict(scan)
    wanted = textbook(scan, chosen, networks, mirror=mirror)
    assert prediction.labels.dtype == np.uint8
    assert prediction.labels.shape == shape
    assert (prediction.labels == wanted).mean() >= 0.99999
    assert len(np.unique(wanted)) > 1 or wanted.size < 100
    assert (prediction.precision, prediction.device, prediction.notes) == ("fp32", "cpu", ())


def test_a_network_that_looks_at_each_voxel_gives_the_image_back() -> None:
    image = noise((17, 12, 25))
    chosen = plan(mirror_axes=(0, 1, 2))
    network = PerVoxel([0.0, 1.0, -1.0], [0.0, -0.5, -0.5])
    labels = Predictor(chosen, "3d_fullres", [network], device="cpu", precision="fp32").predict(case(image)).labels
    assert (labels == np.where(image > 0.5, 1, np.where(image < -0.5, 2, 0))).mean() > 0.9999


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.6, 1.7, 1.1)])
def test_a_constant_network_leaves_no_seam(spacing: tuple[float, float, float]) -> None:
    network = PerVoxel([0.0, 0.0, 0.0], [0.1, 0.3, 0.2])
    labels = Predictor(plan(), "3d_fullres", [network], device="cpu", precision="fp32").predict(case(noise((19, 33, 21)), spacing)).labels
    assert (labels == 1).all()


def test_outside_of_the_nonzero_box_is_background() -> None:
    image = np.zeros((20, 20, 20), np.float32)
    image[5:15, 4:16, 3:17] = 1
    network = PerVoxel([0.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    labels = Predictor(plan(), "3d_fullres", [network], device="cpu", precision="fp32").predict(case(image)).labels
    assert (labels == image).all()


def test_bands_change_nothing() -> None:
    chosen = plan(configuration(spacing=(1.2, 0.9, 1.1)))
    networks, scan = [random_network(chosen)], case(noise((18, 40, 20)))
    whole = Predictor(chosen, "3d_fullres", networks, device="cpu", precision="fp32").predict(scan).labels
    banded = Predictor(chosen, "3d_fullres", networks, device="cpu", precision="fp32", slab_limit_bytes=20_000)
    reports: list[tuple[str, int, int]] = []
    assert (banded.predict(scan, progress=lambda *told: reports.append(told)).labels == whole).mean() >= 0.99999
    done = [told[1] for told in reports]
    assert done == sorted(done)
    assert done[-1] == reports[-1][2]


def test_a_cascade_sees_the_labels_of_its_first_stage() -> None:
    """The second stage's network only copies the one-hot channels it is given."""

    class Second(nn.Module):
        stride_zyx = (1, 1, 1)

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv3d(3, 3, 1, bias=False)
            with torch.no_grad():
                self.head.weight.copy_(torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 1]]).reshape(3, 3, 1, 1, 1))

        def features(self, x: Tensor) -> Tensor:
            return x - 0.5

        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (self.head(self.features(x)),)

    chosen = plan({"3d_lowres": configuration(), "3d_cascade_fullres": configuration(previous_stage="3d_lowres")})
    image = noise((17, 12, 25))
    first = Predictor(chosen, "3d_lowres", [PerVoxel([0.0, 1, -1], [0.0, -0.5, -0.5])], device="cpu", precision="fp32")
    second = Predictor(chosen, "3d_cascade_fullres", [Second()], device="cpu", precision="fp32", previous=first)
    assert (second.predict(case(image)).labels == first.predict(case(image)).labels).all()
    with pytest.raises(ValueError, match="previous stage"):
        Predictor(chosen, "3d_cascade_fullres", [Second()], device="cpu")


def test_a_preprocessed_case_gives_the_same_and_labels_are_not_looked_at() -> None:
    chosen, scan = plan(), case(noise((15, 16, 17)))
    predictor = Predictor(chosen, "3d_fullres", [random_network(chosen)], device="cpu", precision="fp32")
    labelled = replace(scan, labels=np.ones((15, 16, 17), np.int16))
    wanted = predictor.predict(scan).labels
    assert (predictor.predict_working(preprocess(labelled, chosen, "3d_fullres")) == wanted).all()
    assert (predictor.predict(labelled).labels == wanted).all()


# precision


class Rounded(PerVoxel):
    """A network whose features suffer in bfloat16: small differences on a large offset."""

    def features(self, x: Tensor) -> Tensor:
        return (x + 100) - 100


@pytest.mark.parametrize(("recorded", "wanted"), [(0.9999, "bf16"), (0.5, "fp32")])
def test_a_recorded_self_test_decides(recorded: float, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg3d.prediction.predictor.fast_bfloat16", lambda kind: True)
    predictor = Predictor(plan(), "3d_fullres", [PerVoxel([0, 1, -1], [0, 0, 0])], device="cpu", bf16_agreement=recorded)
    prediction = predictor.predict(case(noise((9, 9, 9))))
    assert (prediction.precision, prediction.agreement) == (wanted, recorded)


@pytest.mark.parametrize(
    ("network", "wanted"),
    [(PerVoxel([0.0, 8.0, -8.0], [0.0, 0.0, 0.0]), "bf16"), (Rounded([0.0, 1.0, -1.0], [0.0, -0.01, -0.01]), "fp32")],
)
def test_else_the_first_case_is_the_self_test_and_decides_for_all(network: nn.Module, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg3d.prediction.predictor.fast_bfloat16", lambda kind: True)
    image = np.sign(noise((12, 12, 12))) if wanted == "bf16" else noise((12, 12, 12))
    predictor = Predictor(plan(), "3d_fullres", [network], device="cpu")
    prediction = predictor.predict(case(image))
    assert prediction.precision == wanted
    assert prediction.agreement is not None
    assert (prediction.agreement >= 0.999) == (wanted == "bf16")
    following = predictor.predict(case(noise((9, 10, 9), seed=5)))
    assert (following.precision, following.agreement) == (wanted, prediction.agreement)


def test_a_record_says_nothing_about_prediction_without_mirrored_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg3d.prediction.predictor.fast_bfloat16", lambda kind: True)
    network = Rounded([0.0, 1.0, -1.0], [0.0, -0.01, -0.01])
    predictor = Predictor(plan(), "3d_fullres", [network], device="cpu", mirror=False, bf16_agreement=1.0)
    assert predictor.predict(case(noise((12, 12, 12)))).precision == "fp32"


def test_few_windows_are_not_worth_a_self_test_and_many_cases_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg3d.prediction.predictor.fast_bfloat16", lambda kind: True)
    single, network = case(np.sign(noise((8, 8, 8)))), PerVoxel([0.0, 8.0, -8.0], [0.0, 0.0, 0.0])
    for expected, wanted in ((1, "fp32"), (10, "bf16")):
        predictor = Predictor(plan(), "3d_fullres", [network], device="cpu")
        predictor.expect(expected)
        assert predictor.predict(single).precision == wanted


def test_a_rerun_computes_as_the_run_that_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg3d.prediction.predictor.fast_bfloat16", lambda kind: True)
    predictor = Predictor(plan(), "3d_fullres", [PerVoxel([0.0, 8.0, -8.0], [0.0, 0.0, 0.0])], device="cpu")
    predictor.adopt("fp32", 0.5)
    found = predictor.predict(case(np.sign(noise((12, 12, 12)))))
    assert (found.precision, found.agreement) == ("fp32", 0.5)


def test_without_foreground_nothing_is_risked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg3d.prediction.predictor.fast_bfloat16", lambda kind: True)
    prediction = Predictor(plan(), "3d_fullres", [PerVoxel([0, 0, 0], [1, 0, 0])], device="cpu").predict(case(noise((9, 9, 9))))
    assert (prediction.precision, prediction.agreement) == ("fp32", None)


def test_a_device_that_is_slow_in_bfloat16_stays_with_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg3d.prediction.predictor.fast_bfloat16", lambda kind: False)
    predictor = Predictor(plan(), "3d_fullres", [PerVoxel([0, 1, -1], [0, 0, 0])], device="cpu", bf16_agreement=1.0)
    assert predictor.predict(case(noise((9, 9, 9)))).precision == "fp32"


# a device that runs out of memory


class Hungry(PerVoxel):
    """Runs out of memory like a GPU where it is given more than one window."""

    def features(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            raise torch.OutOfMemoryError("out of memory\nwith details")
        return x


def test_out_of_memory_is_tried_again_in_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    scan, weights = case(noise((20, 20, 20))), ([0.0, 1.0, -1.0], [0.0, -0.5, -0.5])
    wanted = Predictor(plan(), "3d_fullres", [PerVoxel(*weights)], device="cpu", precision="fp32").predict(scan).labels
    predictor = Predictor(plan(), "3d_fullres", [Hungry(*weights)], device="cpu", precision="fp32")
    monkeypatch.setattr(predictor, "attempts", lambda: [Attempt(CPU, 8, CPU), Attempt(CPU, 2, CPU), Attempt(CPU, 1, CPU)])
    prediction = predictor.predict(scan)
    assert (prediction.labels == wanted).all()
    assert prediction.notes == (
        "cpu ran out of memory with 8 windows at a time: out of memory",
        "cpu ran out of memory with 2 windows at a time: out of memory",
    )


def test_a_gpu_falls_back_in_four_steps() -> None:
    predictor = Predictor(plan(), "3d_fullres", [PerVoxel([0, 0, 0], [0, 0, 0])], device="cpu")
    frugal = Attempt(CPU, 1, CPU, frugal=8)
    assert predictor.attempts() == [Attempt(CPU, 1, CPU), frugal]
    predictor.device = torch.device("cuda:1")
    gpu = predictor.device
    assert predictor.attempts() == [Attempt(gpu, 16, gpu), Attempt(gpu, 1, gpu), Attempt(gpu, 1, CPU), Attempt(CPU, 1, CPU), frugal]


# packages


def test_a_package_gives_what_its_networks_give(tmp_path: Path) -> None:
    chosen = plan()
    package = open_package(write_package(tmp_path, chosen, ("0", "2"), bf16_agreement=0.9))
    predictor = Predictor.from_package(package, device="cpu", precision="fp32")
    scan = case(noise((15, 20, 18)))
    networks = [random_network(chosen, seed=0), random_network(chosen, seed=2)]
    assert predictor.bf16_agreement == 0.9
    wanted = Predictor(chosen, "3d_fullres", networks, device="cpu", precision="fp32").predict(scan)
    assert (predictor.predict(scan).labels == wanted.labels).all()
    alone = Predictor.from_package(package, folds=("2",), device="cpu", precision="fp32").predict(scan).labels
    assert (alone == Predictor(chosen, "3d_fullres", networks[1:], device="cpu", precision="fp32").predict(scan).labels).all()


def test_what_is_chosen_where_nothing_is_named(tmp_path: Path) -> None:
    package = open_package(write_package(tmp_path / "a", plan({"2d": configuration(), "3d_fullres": configuration()}), ("full", "1", "0")))
    assert choose_configuration(package, None) == "3d_fullres"
    assert choose_folds(package, "3d_fullres", None) == ("0", "1")
    assert missing_folds(package, "3d_fullres", ("0", "1")) == ("2", "3", "4")
    assert choose_folds(package, "3d_fullres", ("1", "full", "1")) == ("1", "full")
    assert missing_folds(package, "3d_fullres", ("full",)) == ()
    only_full = open_package(write_package(tmp_path / "b", plan({"odd": configuration()}), ("full",)))
    assert choose_configuration(only_full, None) == "odd"
    assert choose_folds(only_full, "odd", None) == ("full",)
    with pytest.raises(ModelError, match="wanted 3d_fullres; got odd"):
        choose_configuration(only_full, "3d_fullres")
    with pytest.raises(ModelError, match="wanted odd fold 3"):
        choose_folds(only_full, "odd", ("3",))
    with pytest.raises(ModelError, match="no trained network"):
        choose_configuration(open_package(write_package(tmp_path / "c", plan(), ())), None)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    write_package(tmp_path, plan())
    add_fold(tmp_path, configuration="3d_fullres", fold="0", weights={"a": torch.zeros(3)})
    with pytest.raises(ModelError, match=r"E_MODEL_WEIGHTS.*do not fit"):
        Predictor.from_package(open_package(tmp_path), device="cpu")


def test_a_cascade_from_a_package(tmp_path: Path) -> None:
    chosen = plan({"3d_lowres": configuration(spacing=(2.0, 2.0, 2.0)), "3d_fullres": configuration(previous_stage="3d_lowres")})
    predictor = Predictor.from_package(open_package(write_package(tmp_path, chosen)), device="cpu", precision="fp32")
    labels = predictor.predict(case(noise((18, 20, 22)))).labels
    assert predictor.previous is not None
    assert predictor.previous.name == "3d_lowres"
    assert set(np.unique(labels)) <= {0, *LABELS.values}


@pytest.mark.parametrize("step", [0, -1, 1.5])
def test_a_step_that_makes_no_sense(step: float) -> None:
    with pytest.raises(UsageError, match="field step"):
        Predictor(plan(), "3d_fullres", [PerVoxel([0], [0])], device="cpu", step=step)
