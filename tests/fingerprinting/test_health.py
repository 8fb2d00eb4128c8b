"""Faults and warnings over a dataset: each is raised by what it describes, and by nothing else."""

import numpy as np
import pytest

from autoseg3d.fingerprinting.health import dataset_faults, dataset_findings, duplicates
from autoseg3d.fingerprinting.intensities import sketch
from autoseg3d.fingerprinting.observation import Observation
from planners.fingerprint import CaseFingerprint, LabelObservation
from planners.labels import LabelTable, label_table

TABLE = label_table({"background": 0, "organ": 1, "lesion": 2})


def seen(
    case: str,
    *,
    volumes: tuple[float, float] = (30.0, 2.0),
    place: tuple[float, float, float] = (0.5, 0.5, 0.3),
    brightness: tuple[float, ...] = (100.0,),
    orientation: str = "LPS",
    voxel_hash: str | None = None,
    notes: tuple[str, ...] = (),
) -> Observation:
    """An observation of a case with one organ and one lesion (volume 0: absent)."""
    rng = np.random.default_rng(sum(case.encode()))
    labels = {}
    for name, volume in zip(("organ", "lesion"), volumes, strict=True):
        spread = volume * (1 + 0.1 * rng.normal())
        at = tuple(float(v) for v in np.array(place) + 0.02 * rng.normal(size=3))
        labels[name] = (
            LabelObservation(voxels=int(volume * 100), volume_ml=spread, centroid=at) if volume else LabelObservation(voxels=0, volume_ml=0)
        )
    return Observation(
        case=CaseFingerprint(
            id=case,
            shape=(10, 10, 10),
            shape_after_crop=(10, 10, 10),
            spacing_mm=(1, 1, 1),
            orientation=orientation,
            relative_size_after_crop=1,
            labels=labels,
        ),
        intensities=tuple(sketch(rng.normal(level, 10, 500).astype(np.float32)) for level in brightness),
        voxel_hash=voxel_hash or case,
        notes=notes,
    )


def dataset_warnings(observations: list[Observation], table: LabelTable) -> list[str]:
    """The texts of the findings; every case that a finding holds is named in its text."""
    found = dataset_findings(observations, table)
    for finding in found:
        assert len(finding.cases) > 8 or finding.kind == "rare label" or all(case in finding.text for case in finding.cases)
    return [finding.text for finding in found]


def healthy(count: int = 20) -> list[Observation]:
    return [seen(f"case{i:02d}") for i in range(count)]


def test_a_healthy_dataset_has_nothing_to_tell() -> None:
    assert dataset_faults(healthy(), TABLE) == []
    assert dataset_warnings(healthy(), TABLE) == []


def test_a_declared_label_that_never_occurs_is_a_fault() -> None:
    (fault,) = dataset_faults([seen(f"c{i}", volumes=(30, 0)) for i in range(6)], TABLE)
    assert (fault.code, fault.field) == ("E_CLASS_ABSENT", "lesion")


def test_no_foreground_anywhere_is_one_fault_not_one_per_label() -> None:
    (fault,) = dataset_faults([seen(f"c{i}", volumes=(0, 0)) for i in range(6)], TABLE)
    assert fault.code == "E_NO_FOREGROUND"


def test_without_readable_cases_there_is_nothing_to_say_about_labels() -> None:
    assert dataset_faults([], TABLE) == []


def test_duplicates_are_grouped_and_named() -> None:
    observations = [*healthy(), seen("copy", voxel_hash="case03"), seen("again", voxel_hash="case03")]
    assert duplicates(observations) == (("case03", "copy", "again"),)
    (warning,) = dataset_warnings(observations, TABLE)
    assert "case03, copy, again" in warning


def test_few_cases() -> None:
    (warning,) = dataset_warnings(healthy(4), TABLE)
    assert "only 4 readable cases" in warning
    assert dataset_warnings(healthy(5), TABLE) == []


def test_rare_labels_and_empty_label_maps() -> None:
    observations = [*(seen(f"a{i}", volumes=(30, 0)) for i in range(10)), *(seen(f"b{i}") for i in range(4)), seen("void", volumes=(0, 0))]
    warnings = dataset_warnings(observations, TABLE)
    assert [w for w in warnings if "'lesion' occurs in only 4 of 15" in w]
    assert [w for w in warnings if "empty in case void" in w]
    assert len(warnings) == 2


def test_mixed_orientations_name_the_odd_ones() -> None:
    (warning,) = dataset_warnings([*healthy(), seen("odd", orientation="RAS")], TABLE)
    assert "most are LPS" in warning
    assert "odd (RAS)" in warning


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_unusual_volumes(factor: float) -> None:
    (warning,) = dataset_warnings([*healthy(), seen("odd", volumes=(30 * factor, 2))], TABLE)
    assert "'organ' has an unusual volume in case odd" in warning
    assert dataset_warnings([*healthy(), seen("fine", volumes=(30 * factor**0.3, 2))], TABLE) == []


def test_labels_on_the_wrong_side() -> None:
    warnings = dataset_warnings([*healthy(), seen("odd", place=(0.5, 0.5, 0.7))], TABLE)
    assert [w for w in warnings if "'organ' lies far from its usual place in case odd (to the right)" in w]
    assert [w for w in warnings if "'lesion' lies far from its usual place" in w]


def test_unusual_intensities_are_outliers_not_a_second_scanner() -> None:
    (warning,) = dataset_warnings([*healthy(), seen("odd", brightness=(900.0,))], TABLE)
    assert "channel 0: unusual intensities inside the labels in case odd (899.5); usual are" in warning
    (warning,) = dataset_warnings([*healthy(11), seen("odd", brightness=(900.0,))], TABLE)  # of twelve, one is an outlier too
    assert "case odd" in warning
    assert dataset_warnings([*healthy(), *(seen(f"s{i}", brightness=(900.0,)) for i in range(4))], TABLE) == []


def test_swapped_channels() -> None:
    observations = [seen(f"c{i:02d}", brightness=(100.0, 150.0)) for i in range(9)]
    (warning,) = dataset_warnings([*observations, seen("odd", brightness=(150.0, 100.0))], TABLE)
    assert "channels 0 and 1 may be swapped in case odd" in warning


def test_outliers_are_not_judged_from_a_handful_of_cases() -> None:
    odd = seen("odd", volumes=(3000, 2), place=(0.9, 0.1, 0.9), brightness=(5000.0,))
    assert dataset_warnings([*healthy(6), odd], TABLE) == []


def test_notes_are_told_once_with_their_cases() -> None:
    observations = [*healthy(), *(seen(f"n{i}", notes=(f"n{i}.nii.gz: a shear was taken out",)) for i in range(11))]
    (warning,) = dataset_warnings(observations, TABLE)
    assert warning == "a shear was taken out: cases n0, n1, n2, n3, n4, n5, n6, n7 and 3 more"
