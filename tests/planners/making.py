"""Fingerprints made by hand for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planners.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics, LabelObservation
from planners.labels import label_table
from planners.speed import Speed

# Two cores of a CPU with bfloat16, as measured, and a made-up device for sums by hand.
TWO_CORES = Speed(flops_per_second=5e11, bytes_per_second=1e10)

STATISTICS = IntensityStatistics(mean=0.0, median=0.0, std=1.0, min=-1.0, max=1.0, percentile_00_5=-1.0, percentile_99_5=1.0)


def fingerprint(
    shape: Sequence[int] = (128, 128, 128),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    cases: int = 3,
    channels: Sequence[str] = ("MRI",),
    labels: dict[str, Any] | None = None,
    orientation: str | None = "RAS",
    num_training: int | None = None,
    observed: Sequence[dict[str, LabelObservation]] | None = None,
    relative: float = 1.0,
) -> Fingerprint:
    """A dataset of equal cases; `observed` gives label observations per case."""
    return Fingerprint(
        dataset_name="test",
        channel_names=tuple(channels),
        labels=label_table(labels or {"background": 0, "a": 1, "b": 2}),
        num_training=num_training or cases,
        cases=tuple(
            CaseFingerprint.model_validate(
                {
                    "id": f"case_{i:03d}",
                    "shape": tuple(shape),
                    "shape_after_crop": tuple(shape),
                    "spacing_mm": tuple(spacing),
                    "orientation": orientation,
                    "relative_size_after_crop": relative,
                    "labels": {} if observed is None else observed[i],
                }
            )
            for i in range(cases)
        ),
        intensities=tuple(STATISTICS for _ in channels),
        median_relative_size_after_crop=relative,
    )


def hippocampus() -> Fingerprint:
    """260 cases of 36 × 50 × 35 voxels at 1 mm, as in the Medical Segmentation Decathlon."""
    return fingerprint((36, 50, 35), cases=260, labels={"background": 0, "Anterior": 1, "Posterior": 2})


def liver() -> Fingerprint:
    """131 CTs of 482 × 512 × 512 voxels at 1 × 0.767 × 0.767 mm, as in LiTS."""
    return fingerprint((482, 512, 512), (1.0, 0.767, 0.767), cases=131, channels=("CT",), labels={"background": 0, "liver": 1, "tumour": 2})


def prostate() -> Fingerprint:
    """32 MRIs of 20 × 320 × 320 voxels at 3.6 × 0.625 × 0.625 mm with two channels."""
    return fingerprint((20, 320, 320), (3.6, 0.625, 0.625), cases=32, channels=("T2", "ADC"))


def heart() -> Fingerprint:
    """200 cine MRIs of 9 × 256 × 216 voxels at 10 × 1.56 × 1.56 mm, as in ACDC."""
    return fingerprint((9, 256, 216), (10.0, 1.56, 1.56), cases=200, labels={"background": 0, "RV": 1, "MLV": 2, "LVC": 3})
