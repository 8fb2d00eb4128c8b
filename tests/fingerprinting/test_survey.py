"""A whole dataset in one pass: the fingerprint, faults as values, the cache, several processes, real data."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_datasets import LPS, blob_case, describe, write_blobs, write_case

from autoseg3d.errors import UsageError
from autoseg3d.fingerprinting import survey
from autoseg3d.fingerprinting.journal import Journal
from autoseg3d.io.dataset import Dataset, open_dataset


@pytest.fixture
def blobs(tmp_path: Path) -> Dataset:
    return open_dataset(write_blobs(tmp_path / "raw", 6))


def test_the_fingerprint_of_a_sound_dataset(blobs: Dataset) -> None:
    found = survey(blobs)
    assert (found.faults, found.warnings, found.duplicates) == ((), (), ())
    fingerprint = found.fingerprint
    assert fingerprint is not None
    assert [case.id for case in fingerprint.cases] == [f"c{i:02d}" for i in range(6)]
    assert fingerprint.num_training == 6
    case = fingerprint.cases[0]
    assert (case.shape, case.shape_after_crop, case.spacing_mm, case.orientation) == ((8, 12, 14), (8, 10, 12), (3, 1.5, 1.5), "LPS")
    assert fingerprint.median_relative_size_after_crop == pytest.approx(120 / 168)
    assert fingerprint.intensities[0].median == pytest.approx(150, abs=1)
    assert fingerprint.intensities[0].max == pytest.approx(190, abs=15)


def test_several_processes_find_the_same(blobs: Dataset) -> None:
    assert survey(blobs, workers=2) == survey(blobs, workers=1)


def test_progress_counts_cases(blobs: Dataset) -> None:
    calls: list[tuple[str, int, int]] = []
    survey(blobs, progress=lambda *call: calls.append(call))
    assert calls[0][1:] == (0, 6)
    assert calls[-1][1:] == (6, 6)


def test_unchanged_cases_are_not_read_again(blobs: Dataset, tmp_path: Path) -> None:
    def read(dataset: Dataset) -> int:
        calls: list[int] = []
        found.append(survey(dataset, cache_folder=tmp_path / "cache", progress=lambda _, __, total: calls.append(total)))
        return calls[0]

    found: list[object] = []
    assert read(blobs) == 6
    assert read(blobs) == 0
    assert found[0] == found[1]
    write_case(blobs.root, "c06", *blob_case(np.random.default_rng(9)))
    describe(blobs.root, count=7)
    assert read(open_dataset(blobs.root)) == 1
    write_case(blobs.root, "c02", *blob_case(np.random.default_rng(10), (9, 12, 14)))
    assert read(open_dataset(blobs.root)) == 1
    assert found[-1] == survey(open_dataset(blobs.root))


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from autoseg3d.fingerprinting import survey
from autoseg3d.fingerprinting.journal import Journal
from autoseg3d.io.dataset import open_dataset
survey(open_dataset({raw!r}), cache_folder=Path({cache!r}), progress=lambda what, done, total: print(done, total, flush=True))
"""


def _in_a_process(dataset: Dataset, cache: Path) -> subprocess.Popen[str]:
    script = SCRIPT.format(root=str(Path(__file__).parents[2]), raw=str(dataset.root), cache=str(cache))
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def test_a_kill_costs_no_case_that_was_read(tmp_path: Path) -> None:
    dataset, cache, kept = open_dataset(write_blobs(tmp_path / "raw", 30)), tmp_path / "cache", 0
    for killed_after in (4, 3, 5):
        with _in_a_process(dataset, cache) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"0 {30 - kept}\n"
            for _ in range(killed_after):
                process.stdout.readline()
            process.kill()
            process.wait()
        calls: list[int] = []
        kept = len(Journal(cache)._known)
        assert kept >= killed_after - 1  # the one that was told last may be on its way to the disk
    assert survey(dataset, cache_folder=cache, progress=lambda _, __, total: calls.append(total)) == survey(dataset)
    assert calls[0] == 30 - kept


def test_two_processes_may_measure_one_dataset_at_once(tmp_path: Path) -> None:
    dataset, cache = open_dataset(write_blobs(tmp_path / "raw", 12)), tmp_path / "cache"
    with _in_a_process(dataset, cache) as one, _in_a_process(dataset, cache) as other:
        for process in (one, other):
            process.communicate()
            assert process.returncode == 0
    calls: list[int] = []
    assert survey(dataset, cache_folder=cache, progress=lambda _, __, total: calls.append(total)) == survey(dataset)
    assert calls[0] == 0


def test_all_faults_come_at_once_and_good_cases_are_kept(blobs: Dataset, tmp_path: Path) -> None:
    root = blobs.root
    image, labels = blob_case(np.random.default_rng(3))
    truncated = root / "imagesTr" / "c01_0000.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:-300])
    write_case(root, "c02", image, np.where(labels == 2, 7, labels))
    write_case(root, "c03", image, labels[:, :-1])
    write_case(root, "c04", np.full_like(image, 5), labels)
    holes = image.copy()
    holes[3, 4, 5] = np.nan
    write_case(root, "c05", holes, labels)
    found = survey(blobs, workers=2, cache_folder=tmp_path / "cache")
    assert found.fingerprint is None
    assert [fault.case for fault in found.faults] == ["c01", "c02", "c03", "c04", "c05"]
    assert [fault.code for fault in found.faults] == ["E_TRUNCATED", "E_LABEL", "E_SHAPE", "E_CONSTANT", "E_NONFINITE"]
    left = survey(blobs, exclude=frozenset({"c01", "c02", "c03", "c04", "c05"}), cache_folder=tmp_path / "cache")
    assert left.faults == ()
    assert left.fingerprint is not None
    assert (len(left.fingerprint.cases), left.fingerprint.num_training) == (1, 1)


def test_a_missing_file_is_a_fault_of_its_case(blobs: Dataset) -> None:
    (blobs.root / "labelsTr" / "c03.nii.gz").unlink()
    (fault,) = survey(blobs).faults
    assert (fault.case, fault.code) == ("c03", "E_MISSING")


def test_faults_and_warnings_of_the_folder_are_reported_too(blobs: Dataset) -> None:
    (blobs.root / "labelsTr" / "c03.nii.gz").unlink()
    (blobs.root / "imagesTr" / "._c01_0000.nii.gz").write_bytes(b"x")
    opened = open_dataset(blobs.root, partial=True)
    found = survey(opened)
    assert [fault.case for fault in found.faults] == [fault.case for fault in opened.faults] == ["c03"]
    assert found.warnings[: len(opened.warnings)] == opened.warnings != ()
    left = survey(opened, exclude=frozenset({"c03"}))
    assert left.faults == ()
    assert left.fingerprint is not None
    assert len(left.fingerprint.cases) == 5


def test_declared_labels_that_never_occur_and_empty_datasets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    describe(tmp_path, count=5, labels={"background": 0, "organ": 1, "lesion": 2, "ghost": 3})
    for i in range(5):
        write_case(tmp_path, f"c{i}", *blob_case(rng))
    (fault,) = survey(open_dataset(tmp_path)).faults
    assert (fault.code, fault.field) == ("E_CLASS_ABSENT", "ghost")
    for i in range(5):
        image, labels = blob_case(rng)
        write_case(tmp_path, f"c{i}", image, labels * 0)
    (fault,) = survey(open_dataset(tmp_path)).faults
    assert fault.code == "E_NO_FOREGROUND"


def test_copies_under_two_names_are_named(blobs: Dataset) -> None:
    image, labels = blob_case(np.random.default_rng(77))
    for case in ("c01", "c04"):
        write_case(blobs.root, case, image, labels)
    found = survey(blobs)
    assert found.duplicates == (("c01", "c04"),)
    assert found.fingerprint is not None
    assert any("c01, c04" in warning for warning in found.warnings)


def test_excluding_an_unknown_case_is_refused(blobs: Dataset) -> None:
    with pytest.raises(UsageError, match="c99"):
        survey(blobs, exclude=frozenset({"c99"}))


def test_leaving_out_every_case_is_a_fault(blobs: Dataset) -> None:
    found = survey(blobs, exclude=frozenset(case.id for case in blobs.cases))
    assert [fault.code for fault in found.faults] == ["E_NO_CASES"]
    assert found.fingerprint is None


def test_several_channels_have_statistics_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    describe(tmp_path, count=5, channels=("T1", "T2"))
    for i in range(5):
        image, labels = blob_case(rng)
        write_case(tmp_path, f"c{i}", np.stack([image, 10 * image]), labels, affine=LPS)
    fingerprint = survey(open_dataset(tmp_path)).fingerprint
    assert fingerprint is not None
    first, second = fingerprint.intensities
    assert second.mean == pytest.approx(10 * first.mean, rel=1e-5)
    assert len(fingerprint.cases[0].labels["organ"].quantiles) == 2


def test_hippocampus_has_the_fingerprint_nnunet_gives_it(shared_data: Path, shared_oracle: Path) -> None:
    dataset = open_dataset(shared_data / "Hippocampus")
    found = survey(dataset, workers=2)
    assert (found.faults, found.duplicates) == ((), ())
    fingerprint = found.fingerprint
    assert fingerprint is not None
    known = json.loads((shared_oracle / "nnunet_hippocampus" / "model" / "dataset_fingerprint.json").read_text())
    assert np.array_equal(fingerprint.shapes(), known["shapes_after_crop"])
    assert fingerprint.spacings() == pytest.approx(np.array(known["spacings"]))
    assert fingerprint.median_relative_size_after_crop == known["median_relative_size_after_cropping"]
    wanted = known["foreground_intensity_properties_per_channel"]["0"]
    span = wanted["percentile_99_5"] - wanted["percentile_00_5"]
    for name, value in fingerprint.intensities[0]:
        assert abs(value - wanted[name]) < 5e-3 * span, name
