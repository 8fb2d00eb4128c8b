"""Seeded random fingerprints, from a single voxel to 2000³, 0.01 to 100 mm, one case to thousands."""

from __future__ import annotations

import itertools

import numpy as np

from planners.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics
from planners.labels import label_table

_ORIENTATIONS = ["".join(letters) for kinds in itertools.permutations(("LR", "PA", "IS")) for letters in itertools.product(*kinds)]
_CHANNELS = ("CT", "MRI", "T1", "T2", "noNorm", "rescale_to_0_1", "FLAIR", "PET", "ADC", "DWI", "SWI", "rgb_to_0_1")


def random_fingerprint(seed: int, *, most_cases: int = 60) -> Fingerprint:
    """One fingerprint per seed; a tenth of them extreme in size, spacing or number of classes."""
    rng = np.random.default_rng(seed)
    cases = int(np.exp(rng.uniform(0, np.log(most_cases))))
    shape = np.exp(rng.uniform(0, np.log(2000), 3)) if rng.random() < 0.5 else np.exp(rng.uniform(np.log(8), np.log(600), 3))
    spacing = np.exp(rng.uniform(np.log(0.01), np.log(100), 3)) if rng.random() < 0.3 else np.exp(rng.uniform(np.log(0.3), np.log(8), 3))
    vary = rng.choice([0.0, 0.1, 0.5])
    classes = int(rng.choice([1, 2, 5, 20, 300], p=[0.3, 0.3, 0.2, 0.15, 0.05]))
    names = [str(name) for name in rng.choice(_CHANNELS, int(rng.choice([1, 1, 2, 4, 12])), replace=False)]
    entries: dict[str, int | list[int] | tuple[int, ...]] = {"background": 0, **{f"l{i}": i for i in range(1, classes + 1)}}
    order = None
    if classes > 1 and rng.random() < 0.2:
        entries["l1"] = list(range(1, classes + 1))
        order = list(range(1, classes + 1))
    if rng.random() < 0.1:
        entries["ignore"] = classes + 1
    turned = str(rng.choice(_ORIENTATIONS)) if rng.random() < 0.8 else None
    return Fingerprint(
        dataset_name=f"random {seed}",
        channel_names=tuple(names),
        labels=label_table(entries, order),
        num_training=cases if rng.random() < 0.8 else int(rng.integers(1, 10_001)),
        cases=tuple(_case(i, rng, shape, spacing, vary, turned) for i in range(cases)),
        intensities=tuple(_STATISTICS for _ in names),
        median_relative_size_after_crop=float(rng.uniform(0.05, 1)),
    )


def _case(
    number: int, rng: np.random.Generator, shape: np.ndarray, spacing: np.ndarray, vary: float, orientation: str | None
) -> CaseFingerprint:
    sizes = np.clip(np.round(shape * np.exp(rng.normal(0, vary, 3))), 1, 2000).astype(int)
    mm = np.clip(spacing * np.exp(rng.normal(0, vary, 3)), 0.01, 100)
    return CaseFingerprint(
        id=f"case_{number:05d}",
        shape=tuple(int(n) for n in sizes),
        shape_after_crop=tuple(int(n) for n in sizes),
        spacing_mm=tuple(float(v) for v in mm),
        orientation=orientation,
        relative_size_after_crop=1.0,
    )


_STATISTICS = IntensityStatistics(mean=0.0, median=0.0, std=1.0, min=-1.0, max=1.0, percentile_00_5=-1.0, percentile_99_5=1.0)
