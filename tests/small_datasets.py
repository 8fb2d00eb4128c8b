"""Small datasets on disk in nnU-Net's raw layout, and plans for them, for tests of fingerprinting and preprocessing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np

from planners.fingerprint import IntensityStatistics
from planners.labels import LabelTable, label_table
from planners.plan import Configuration, NetworkPlan, Plan, Stage

LPS = np.diag([-1.5, -1.5, 3.0, 1.0])
LABELS = {"background": 0, "organ": 1, "lesion": 2}
STATISTICS = IntensityStatistics(mean=10, median=9, std=4, min=-5, max=40, percentile_00_5=0, percentile_99_5=30)


def write_case(root: Path, case: str, image: np.ndarray, labels: np.ndarray | None, affine: np.ndarray = LPS) -> None:
    """Adds a case: image (C, Z, Y, X) or (Z, Y, X), labels (Z, Y, X); the affine is over (x, y, z), RAS+."""
    channels = image if image.ndim == 4 else image[None]
    for channel, values in enumerate(channels):
        _write(root / "imagesTr" / f"{case}_{channel:04d}.nii.gz", values.astype(np.float32), affine)
    if labels is not None:
        _write(root / "labelsTr" / f"{case}.nii.gz", labels.astype(np.uint8), affine)


def _write(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def describe(root: Path, *, count: int, labels: Mapping[str, object] = LABELS, channels: Sequence[str] = ("MR",), **more: object) -> None:
    """Writes dataset.json."""
    root.mkdir(parents=True, exist_ok=True)
    names = {str(i): name for i, name in enumerate(channels)}
    content = {"channel_names": names, "labels": dict(labels), "numTraining": count, "file_ending": ".nii.gz", **more}
    (root / "dataset.json").write_text(json.dumps(content))


def blob_case(rng: np.random.Generator, shape: tuple[int, int, int] = (8, 12, 14)) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image with a dark frame of zeros, a bright organ and a small lesion in it, and its labels."""
    labels = np.zeros(shape, dtype=np.uint8)
    z, y, x = (n // 4 for n in shape)
    labels[z : 3 * z, y : 3 * y, x : 3 * x] = 1
    labels[2 * z, 2 * y, 2 * x : 2 * x + 2] = 2
    image = rng.normal(100, 5, shape) + 50 * (labels > 0) + 30 * (labels == 2)
    image[:, 0] = image[:, -1] = image[:, :, 0] = image[:, :, -1] = 0
    return image.astype(np.float32), labels


def write_blobs(root: Path, count: int, *, affine: np.ndarray = LPS, seed: int = 0) -> Path:
    """A dataset of `count` blob cases c00, c01, … with different noise."""
    rng = np.random.default_rng(seed)
    describe(root, count=count)
    for i in range(count):
        write_case(root, f"c{i:02d}", *blob_case(rng), affine=affine)
    return root


def small_plan(**changes: object) -> Plan:
    """A plan with one configuration "3d_fullres"; `changes` go to the plan, or to the configuration where it has the field."""
    stages = tuple(Stage(features=4 * step[1], kernel=(3, 3, 3), stride=step, blocks=1) for step in ((1, 1, 1), (1, 2, 2)))
    table = changes.pop("labels", label_table(dict(LABELS)))
    assert isinstance(table, LabelTable)
    channels = len(changes.get("channel_names", ("MR",)))  # type: ignore[arg-type]
    configuration = {
        "spacing_mm": (3.0, 1.5, 1.5),
        "median_shape": (8.0, 12.0, 14.0),
        "patch_size": (4, 8, 8),
        "batch_size": 2,
        "network": NetworkPlan(architecture="unet", stages=stages, decoder_blocks=(1,)),
        "normalization": ("zscore",) * channels,
        "use_mask_for_norm": (False,) * channels,
    }
    configuration |= {key: changes.pop(key) for key in list(changes) if key in Configuration.model_fields}
    plan = {
        "planner": "test",
        "dataset_name": "small",
        "orientation": "canonical",
        "axis_order": (0, 1, 2),
        "mirror_axes": (0, 1, 2),
        "channel_names": ("MR",),
        "labels": table,
        "intensities": (STATISTICS,) * channels,
        "configurations": {"3d_fullres": Configuration.model_validate(configuration)},
    }
    return Plan.model_validate(plan | changes)
