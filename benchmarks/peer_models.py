"""nnU-Net models for comparisons: their folders are described here and made by nnU-Net itself, in its own environment.

A `Spec` is turned into plans.json and dataset.json as nnU-Net writes them. `carry_out` hands it, with a training volume,
to `nnunet_models.py` in nnU-Net's environment, which builds the network with nnU-Net's own code, fits it briefly and writes the
checkpoints. Scans are synthetic: a body of nested ellipsoids in air, one intensity per organ, blurred and with noise.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

SIDE = Path(__file__).with_name("nnunet_models.py")
STATISTICS = {"mean": 40.0, "median": 40.0, "std": 120.0, "min": -400.0, "max": 700.0, "percentile_00_5": -350.0, "percentile_99_5": 600.0}


@dataclass(frozen=True)
class Spec:
    """One trained-model folder. Triples are z, y, x in nnU-Net's axis order; a 2d one has pairs.

    steps        of fitting; 0 leaves the weights random
    old          plans as nnU-Net wrote them before version 2.4
    prefix       before every weight's name, as compiled or distributed training leaves it
    mirror_axes  None for a trainer that never mirrors
    layers       settings of the network in place of the usual ones
    keep         labels whose largest part alone is kept after prediction, in the words of postprocessing.json
    zipped       also exported to a zip by nnU-Net
    """

    name: str = "3d_fullres"
    kind: str = "PlainConvUNet"
    patch: tuple[int, ...] = (32, 32, 32)
    spacing: tuple[float, ...] = (1.5, 1.5, 1.5)
    features: tuple[int, ...] = (8, 16, 32)
    strides: tuple[tuple[int, ...], ...] = ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    kernels: tuple[tuple[int, ...], ...] = ((3, 3, 3),) * 3
    blocks: tuple[int, ...] = (2, 2, 2)
    decoder_blocks: tuple[int, ...] = (2, 2)
    labels: dict[str, Any] = field(default_factory=lambda: numbered(4))
    regions_class_order: tuple[int, ...] | None = None
    channels: tuple[str, ...] = ("CT",)
    schemes: tuple[str, ...] = ("CTNormalization",)
    use_mask: bool = False
    transpose: tuple[int, int, int] = (0, 1, 2)
    mirror_axes: tuple[int, ...] | None = (0, 1, 2)
    folds: tuple[str, ...] = ("fold_0",)
    previous_stage: str | None = None
    steps: int = 60
    old: bool = False
    reader: str = "SimpleITKIO"
    prefix: str = ""
    trainer: str = "nnUNetTrainer"
    layers: dict[str, Any] = field(default_factory=dict)
    keep: tuple[Any, ...] = ()
    zipped: bool = False

    @property
    def flat(self) -> bool:
        return len(self.patch) == 2

    @property
    def folder(self) -> str:
        return f"{self.trainer}__nnUNetPlans__{self.name}"


def numbered(classes: int) -> dict[str, int]:
    """`classes` labels, the background among them."""
    return {"background": 0, **{f"organ {k}": k for k in range(1, classes)}}


def dataset_json(spec: Spec) -> dict[str, Any]:
    """dataset.json of a spec."""
    order = {} if spec.regions_class_order is None else {"regions_class_order": list(spec.regions_class_order)}
    names = {str(i): name for i, name in enumerate(spec.channels)}
    return {"channel_names": names, "labels": spec.labels, "numTraining": 2, "file_ending": ".nii.gz", **order}


def plans_json(*specs: Spec) -> dict[str, Any]:
    """plans.json with the configurations of the given specs."""
    first = specs[0]
    return {
        "dataset_name": "Dataset901_Synthetic",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.5, 1.5, 1.5],
        "original_median_shape_after_transp": [80, 80, 80],
        "image_reader_writer": first.reader,
        "transpose_forward": list(first.transpose),
        "transpose_backward": [first.transpose.index(i) for i in range(3)],
        "configurations": {spec.name: _configuration(spec) for spec in specs},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): STATISTICS for i in range(len(first.channels))},
    }


def _configuration(spec: Spec) -> dict[str, Any]:
    axes = 2 if spec.flat else 3
    resampling = {"order": 3, "order_z": 0, "force_separate_z": None}
    entry: dict[str, Any] = {
        "data_identifier": f"nnUNetPlans_{spec.name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(spec.patch),
        "median_image_size_in_voxels": [80.0] * axes,
        "spacing": list(spec.spacing),
        "normalization_schemes": list(spec.schemes),
        "use_mask_for_norm": [spec.use_mask] * len(spec.channels),
        "batch_dice": True,
    }
    for what, is_seg, order in (("data", False, 3), ("seg", True, 1), ("probabilities", False, 1)):
        entry[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        entry[f"resampling_fn_{what}_kwargs"] = {**resampling, "is_seg": is_seg, "order": order}
    if spec.previous_stage:
        entry["previous_stage"] = spec.previous_stage
    if spec.old:
        return entry | {
            "UNet_class_name": spec.kind,
            "UNet_base_num_features": spec.features[0],
            "unet_max_num_features": spec.features[-1],
            "n_conv_per_stage_encoder": list(spec.blocks),
            "n_conv_per_stage_decoder": list(spec.decoder_blocks),
            "num_pool_per_axis": [sum(stride[i] == 2 for stride in spec.strides) for i in range(axes)],
            "pool_op_kernel_sizes": [list(stride) for stride in spec.strides],
            "conv_kernel_sizes": [list(kernel) for kernel in spec.kernels],
        }
    blocks = "n_blocks_per_stage" if spec.kind == "ResidualEncoderUNet" else "n_conv_per_stage"
    return entry | {
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{spec.kind}",
            "arch_kwargs": {
                "n_stages": len(spec.features),
                "features_per_stage": list(spec.features),
                "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
                "kernel_sizes": [list(kernel) for kernel in spec.kernels],
                "strides": [list(stride) for stride in spec.strides],
                blocks: list(spec.blocks),
                "n_conv_per_stage_decoder": list(spec.decoder_blocks),
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
                **spec.layers,
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }
    }


def body(shape: tuple[int, int, int], *, organs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(image float32, labels uint8), (z, y, x): air at -1000, a body of soft tissue, organs of distinct intensities."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij", sparse=True)
    inside = (y / 0.72) ** 2 + (x / 0.88) ** 2 + 0 * z < 1
    image = np.where(inside, np.float32(-100), np.float32(-1000))
    labels = np.zeros(shape, np.uint8)
    for k in range(1, organs + 1):
        centre, radius = rng.uniform(-0.5, 0.5, 3), rng.uniform(0.14, 0.3, 3)
        organ = sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radius, strict=True)) < 1
        image[organ], labels[organ] = -60 + 640 * k / organs, k
    image = ndimage.gaussian_filter(image, 0.7) + rng.normal(0, 6, shape).astype(np.float32)
    return image.astype(np.float32), labels


def job(folder: Path, spec: Spec, *others: Spec, seed: int = 0) -> dict[str, Any]:
    """Writes all of a trained-model folder below `folder` but the weights; what nnunet_models.py is told to make them."""
    target = folder / spec.folder
    target.mkdir(parents=True)
    (target / "plans.json").write_text(json.dumps(plans_json(spec, *others)))
    (target / "dataset.json").write_text(json.dumps(dataset_json(spec)))
    if spec.keep:
        kept = [{"labels_or_regions": values} for values in spec.keep]
        listed = {"postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"] * len(kept), "postprocessing_kwargs": kept}
        (target / "crossval_results_folds_0").mkdir()
        (target / "crossval_results_folds_0" / "postprocessing.json").write_text(json.dumps(listed))
    image, labels = body((96, 96, 96), organs=_highest(spec), seed=seed + 1000)
    patches = folder.parent / f"{folder.name}_{spec.name}.npz"
    np.savez(patches, image=image, labels=labels)
    return {"spec": asdict(spec), "model": str(target), "patches": str(patches)}


def carry_out(python: str, jobs: list[dict[str, Any]], file: Path, *more: str) -> str:
    """Has nnU-Net's environment do the jobs; what it printed."""
    file.write_text(json.dumps(jobs))
    done = subprocess.run([python, str(SIDE), str(file), *more], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return done.stdout


def _highest(spec: Spec) -> int:
    """The highest label value that is predicted."""
    values = [v for name, v in spec.labels.items() if name != "ignore"]
    return max(max(v) if isinstance(v, list | tuple) else v for v in values)
