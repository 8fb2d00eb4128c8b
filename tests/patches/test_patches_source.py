"""PatchSource: samples are functions of (seed, epoch, index), placed by the rules, registered, masked and padded."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from autoseg3d.errors import UsageError
from autoseg3d.patches import CaseReader, PatchSource
from planners.contract import Triple
from planners.fingerprint import IntensityStatistics
from planners.labels import LabelTable, label_table
from planners.plan import AugmentationPlan, Configuration, NetworkPlan, Plan, Stage

PATCH = (8, 12, 10)
OFF = {name: 0.0 for name in AugmentationPlan.model_fields if name.endswith("_probability")}


@dataclass
class Cases:
    """Cases in memory."""

    arrays: dict[str, tuple[np.ndarray, np.ndarray]]
    reads: list[tuple[str, Triple, Triple]] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return list(self.arrays)

    def shape(self, case_id: str) -> Triple:
        z, y, x = self.arrays[case_id][1].shape
        return (z, y, x)

    def locations(self, case_id: str) -> dict[int, np.ndarray]:
        labels = self.arrays[case_id][1]
        found = {c: np.argwhere(labels == c).astype(np.int32) for c in (1, 2)}
        return {**found, -1: np.argwhere((labels >= 0) & (labels < 3)).astype(np.int32)}

    def read(self, case_id: str, start: Triple, shape: Triple) -> tuple[np.ndarray, np.ndarray]:
        self.reads.append((case_id, start, shape))
        image, labels = self.arrays[case_id]
        grown = np.zeros((len(image), *shape), np.float32), np.full(shape, -1, np.int16)
        inside = [(max(0, s), min(n, s + m)) for s, m, n in zip(start, shape, labels.shape, strict=True)]
        if all(a < b for a, b in inside):
            source = tuple(slice(a, b) for a, b in inside)
            target = tuple(slice(a - s, b - s) for (a, b), s in zip(inside, start, strict=True))
            grown[0][(slice(None), *target)] = image[(slice(None), *source)]
            grown[1][target] = labels[source]
        return grown


def make_case(shape: Triple, seed: int, *, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Two boxes, labels 1 and 2; channel 0 equals the labels plus its offset from them, so registration shows."""
    labels = np.zeros(shape, np.int16)
    labels[2:5, 3:6, 2:5] = 1
    labels[6:8, 7:9, 6:8] = 2
    image = np.random.default_rng(seed).standard_normal((channels, *shape)).astype(np.float32)
    image[0] = labels + 5.0
    return image, labels


def make_plan(
    *,
    patch: Triple = PATCH,
    batch: int = 2,
    augmentation: AugmentationPlan | None = None,
    labels: LabelTable | None = None,
    masked: tuple[bool, ...] = (False,),
    cascade: bool = False,
    slicewise: bool = False,
) -> Plan:
    unit = (1, 1, 1)
    stages = tuple(Stage(features=4, kernel=unit, stride=unit, blocks=1) for _ in range(2))
    configuration = Configuration(
        spacing_mm=(1, 1, 1),
        median_shape=(16, 16, 16),
        patch_size=patch,
        batch_size=batch,
        network=NetworkPlan(architecture="unet", stages=stages, decoder_blocks=(1,)),
        normalization=("zscore",) * len(masked),
        use_mask_for_norm=masked,
        slicewise=slicewise,
        previous_stage="first" if cascade else None,
        augmentation=augmentation or AugmentationPlan(),
    )
    statistics = IntensityStatistics(mean=0, median=0, std=1, min=-1, max=1, percentile_00_5=-1, percentile_99_5=1)
    return Plan(
        planner="test",
        dataset_name="Test",
        orientation="canonical",
        axis_order=(0, 1, 2),
        mirror_axes=(0, 1, 2),
        channel_names=tuple(f"channel {i}" for i in range(len(masked))),
        labels=labels or label_table({"background": 0, "front": 1, "back": 2}),
        intensities=(statistics,) * len(masked),
        configurations={"main": configuration, "first": configuration.model_copy(update={"previous_stage": None})},
    )


@pytest.fixture
def cases() -> Cases:
    return Cases({f"case {i}": make_case((16 + i, 18, 15), i) for i in range(4)})


def source(cases: CaseReader, plan: Plan | None = None, *, augment: bool = True, seed: int = 0, **options: str) -> PatchSource:
    return PatchSource(cases, cases.ids, plan or make_plan(), "main", augment=augment, seed=seed, **options)


def test_memory_cases_are_case_readers(cases: Cases) -> None:
    reader: CaseReader = cases
    assert reader.shape("case 1") == (17, 18, 15)


@pytest.mark.parametrize("augment", [True, False])
def test_shapes_and_types(cases: Cases, augment: bool) -> None:
    images, labels = source(cases, augment=augment).batch(0, 0)
    assert (images.shape, labels.shape) == ((2, 1, *PATCH), (2, *PATCH))
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int16)
    assert int(labels.min()) >= 0


def test_samples_do_not_depend_on_history_or_process(cases: Cases) -> None:
    first = source(cases)
    straight = [first.sample(1, i, forced_foreground=i % 2 == 1) for i in range(6)]
    travelled = pickle.loads(pickle.dumps(first))
    for i in reversed(range(6)):
        image, labels = travelled.sample(1, i, forced_foreground=i % 2 == 1)
        assert torch.equal(image, straight[i][0])
        assert torch.equal(labels, straight[i][1])


def test_samples_do_not_depend_on_torchs_threads(cases: Cases) -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            results.append([source(cases).sample(0, i, forced_foreground=True) for i in range(5)])
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(threads)
    for (a, b), (c, d) in zip(*results, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


def test_seed_epoch_and_index_all_matter(cases: Cases) -> None:
    def image(seed: int, epoch: int, index: int) -> torch.Tensor:
        return source(cases, seed=seed).sample(epoch, index, forced_foreground=False)[0]

    base = image(0, 0, 0)
    assert all(not torch.equal(base, other) for other in (image(1, 0, 0), image(0, 1, 0), image(0, 0, 1)))


def test_batch_is_its_samples_with_the_last_ones_forced(cases: Cases) -> None:
    plan = make_plan(batch=3)
    images, labels = source(cases, plan).batch(2, 5)
    assert source(cases, plan).batch_indices(5) == ((15, False), (16, False), (17, True))
    for j, forced in enumerate((False, False, True)):
        image, label_map = source(cases, plan).sample(2, 15 + j, forced_foreground=forced)
        assert torch.equal(images[j], image)
        assert torch.equal(labels[j], label_map)


def test_cases_are_drawn_uniformly(cases: Cases) -> None:
    patches = source(cases)
    drawn = [patches.read(0, i, forced_foreground=False).case_id for i in range(1200)]
    for case_id in cases.ids:
        assert drawn.count(case_id) / 1200 == pytest.approx(0.25, abs=0.05)


def test_forced_samples_are_centred_on_their_class(cases: Cases) -> None:
    plan = make_plan(augmentation=AugmentationPlan.model_validate(OFF))
    patches = source(cases, plan)
    centres = []
    for i in range(300):
        reading = patches.read(0, i, forced_foreground=True)
        if min(reading.start) > 0:  # not clamped at the low side
            middle = tuple(s + p // 2 for s, p in zip(reading.start, PATCH, strict=True))
            centres.append(int(cases.arrays[reading.case_id][1][middle]))
        assert (patches.finish(reading)[1] > 0).any()
    assert len(centres) > 50
    assert set(centres) == {2}  # the box of label 1 lies so low that its patches are clamped


def test_augmented_labels_follow_the_image(cases: Cases) -> None:
    plan = make_plan(augmentation=AugmentationPlan(**{**OFF, "rotation_probability": 1.0, "scale_probability": 1.0}))
    patches = source(cases, plan)
    for i in range(20):
        image, labels = patches.sample(0, i, forced_foreground=True)
        pure = (image[0] - 5.0 - labels).abs() < 0.01
        assert float(pure.float().mean()) > 0.3
        assert torch.equal(labels[image[0] == 0], torch.zeros_like(labels[image[0] == 0]))


def test_validation_patches_are_plain_crops(cases: Cases) -> None:
    patches = source(cases, augment=False)
    for i in range(10):
        reading = patches.read(0, i, forced_foreground=i % 2 == 0)
        image, labels = patches.finish(reading)
        wanted_image, wanted_labels = cases.read(reading.case_id, reading.start, PATCH)
        np.testing.assert_array_equal(image, wanted_image)
        np.testing.assert_array_equal(labels, np.maximum(wanted_labels, 0))


def test_only_what_the_transform_needs_is_read(cases: Cases) -> None:
    plan = make_plan(augmentation=AugmentationPlan.model_validate(OFF))
    source(cases, plan).sample(0, 0, forced_foreground=False)
    assert cases.reads[-1][2] == PATCH


def test_cases_smaller_than_the_patch_are_padded(cases: Cases) -> None:
    small = Cases({"small": make_case((9, 10, 9), 0)})
    plan = make_plan(patch=(16, 16, 16), augmentation=AugmentationPlan.model_validate(OFF))
    for augment in (True, False):
        image, labels = source(small, plan, augment=augment).sample(0, 0, forced_foreground=True)
        assert int((image[0] > 0).sum()) <= 9 * 10 * 9
        assert float(image[0].min()) == 0.0
        assert int(labels.max()) == 2


def test_slices_are_taken_one_at_a_time(cases: Cases) -> None:
    plan = make_plan(patch=(1, 12, 10), slicewise=True, augmentation=AugmentationPlan(dummy_2d=True, rotation_degrees=(180, 0, 0)))
    patches = source(cases, plan)
    planes = {patches.read(0, i, forced_foreground=False).start[0] for i in range(300)}
    assert planes == set(range(19))
    for i in range(50):
        reading = patches.read(0, i, forced_foreground=True)
        assert reading.image.shape[1] == 1
        assert (cases.arrays[reading.case_id][1][reading.start[0]] > 0).any()


def test_masked_channels_are_zero_outside_of_the_mask(cases: Cases) -> None:
    image, labels = make_case((16, 18, 15), 0, channels=2)
    labels[:, 9:] = -1
    image[:] = 1.0
    noisy = AugmentationPlan(**{**OFF, "noise_probability": 1.0, "noise_sigma": (0.1, 0.1)})
    plan = make_plan(masked=(True, False), augmentation=noisy)
    patches = source(Cases({"one": (image, labels)}), plan)
    for i in range(5):
        reading = patches.read(0, i, forced_foreground=False)
        outside = reading.labels.flip(reading.drawn.mirror) < 0
        new_image, new_labels = patches.finish(reading)
        assert (new_image[0][outside] == 0).all()
        assert (new_image[0][~outside] != 0).all()
        assert (new_image[1] != 0).all()
        assert (new_labels[outside] == 0).all()


def test_ignore_label_centres_unforced_samples_on_annotated_voxels() -> None:
    labels = np.full((20, 20, 20), 3, np.int16)
    labels[12, 13, 14] = 1
    table = label_table({"background": 0, "front": 1, "back": 2, "ignore": 3})
    plan = make_plan(labels=table, augmentation=AugmentationPlan.model_validate(OFF))
    patches = source(Cases({"scribble": (np.zeros((1, 20, 20, 20), np.float32), labels)}), plan)
    for i in range(20):
        assert patches.read(0, i, forced_foreground=False).start == tuple(c - p // 2 for c, p in zip((12, 13, 14), PATCH, strict=True))


def test_previous_stage_masks_move_with_the_labels() -> None:
    def one(seed: int) -> tuple[np.ndarray, np.ndarray]:
        image, labels = make_case((16, 18, 15), seed)
        return np.concatenate([image, [labels == 1], [labels == 2]]).astype(np.float32), labels

    spatial = AugmentationPlan(**{**OFF, "rotation_probability": 0.5, "scale_probability": 0.5})
    plan = make_plan(cascade=True, augmentation=spatial)
    patches = source(Cases({"a": one(0), "b": one(1)}), plan)
    exact = 0
    for i in range(60):
        image, labels = patches.sample(0, i, forced_foreground=True)
        assert image.shape == (3, *PATCH)
        assert set(image[1:].unique().tolist()) <= {0.0, 1.0}
        exact += all(torch.equal(image[1 + k], (labels == k + 1).float()) for k in (0, 1))
    assert 20 <= exact < 60  # the others were dilated, eroded or lost a component
    image, labels = source(patches.store, plan, augment=False).sample(0, 1, forced_foreground=True)
    assert torch.equal(image[1], (labels == 1).float())


def test_samples_can_be_augmented_elsewhere(cases: Cases) -> None:
    patches = source(cases)
    reading = patches.read(0, 3, forced_foreground=True).to("cpu")
    image, labels = patches.finish(reading)
    wanted = patches.sample(0, 3, forced_foreground=True)
    assert torch.equal(image, wanted[0])
    assert torch.equal(labels, wanted[1])


def test_batchgenerators_gives_the_same_crops_where_nothing_is_drawn(cases: Cases) -> None:
    pytest.importorskip("batchgenerators")
    plan = make_plan(augmentation=AugmentationPlan.model_validate(OFF)).model_copy(update={"mirror_axes": ()})
    mine, theirs = source(cases, plan), source(cases, plan, augmentation="batchgenerators")
    for i in range(5):
        image, labels = mine.sample(0, i, forced_foreground=True)
        their_image, their_labels = theirs.sample(0, i, forced_foreground=True)
        torch.testing.assert_close(image, their_image)
        assert torch.equal(labels, their_labels)


def test_batchgenerators_is_deterministic_too(cases: Cases) -> None:
    pytest.importorskip("batchgenerators")
    runs = [source(cases, augmentation="batchgenerators").batch(0, 1) for _ in range(2)]
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


@pytest.mark.parametrize(("pick", "text"), [(lambda ids: [], "no case"), (lambda ids: [*ids, "nobody"], "nobody")])
def test_wrong_cases_are_refused(cases: Cases, pick: Callable[[list[str]], list[str]], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        PatchSource(cases, pick(cases.ids), make_plan(), "main", augment=True, seed=0)
