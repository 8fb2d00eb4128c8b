"""Writes small trained-model folders as nnU-Net v2 leaves them, with weights under nnU-Net's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

STATISTICS = {"mean": 100.0, "median": 90.0, "std": 20.0, "min": -5.0, "max": 300.0, "percentile_00_5": 1.0, "percentile_99_5": 250.0}
DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 5, "file_ending": ".nii.gz"}


def configuration(*, flat: bool = False, residual: bool = False, **changes: Any) -> dict[str, Any]:
    """A configuration entry of plans.json with three small stages."""
    axes = 2 if flat else 3
    blocks = {"n_blocks_per_stage": [1, 2, 1]} if residual else {"n_conv_per_stage": [2, 2, 1]}
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    table = {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": [[3] * axes] * 3,
        "strides": [[1] * axes, [2] * axes, [2] * axes],
        **blocks,
        "n_conv_per_stage_decoder": [1, 2],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 24, 16][-axes:],
        "median_image_size_in_voxels": [20.0, 30.0, 20.0][-axes:],
        "spacing": [2.0, 1.0, 1.0][-axes:],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {"network_class_name": f"dynamic_network_architectures.architectures.unet.{name}", "arch_kwargs": table},
        **changes,
    }


def plans(configurations: dict[str, Any]) -> dict[str, Any]:
    """A whole plans.json."""
    return {
        "dataset_name": "Dataset999_Small",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.0, 1.0, 1.0],
        "original_median_shape_after_transp": [20, 30, 20],
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": configurations,
        "foreground_intensity_properties_per_channel": {"0": STATISTICS},
    }


def nnunet_names(ours: dict[str, Tensor], *, flat: bool = False) -> dict[str, Tensor]:
    """Our weights under nnU-Net's names, copies of the same tensors included, as its strict loader wants them."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        parts = name.split(".")
        value = tensor.squeeze(2) if flat and tensor.dim() == 5 else tensor
        if parts[1] == "upsamplings":
            new = f"decoder.transpconvs.{'.'.join(parts[2:])}"
        elif parts[1] == "heads":
            new = f"decoder.seg_layers.{'.'.join(parts[2:])}"
        elif parts[1] == "stem":
            new = f"encoder.stem.convs.0.{'.'.join(parts[2:])}"
        elif parts[0] == "decoder":
            new = f"decoder.stages.{parts[2]}.convs.{'.'.join(parts[3:])}"
        elif "conv1" in parts or "conv2" in parts:
            new = f"encoder.stages.{parts[2]}.blocks.{'.'.join(parts[3:])}"
        elif "project" in parts:
            first = parts[2] == "0"  # stage 0 is not strided, so its shortcut has no pooling before the convolution
            new = f"encoder.stages.{parts[2]}.blocks.{parts[3]}.skip.{0 if first else 1}.{'.'.join(parts[5:])}"
        else:
            new = f"encoder.stages.{parts[2]}.0.convs.{'.'.join(parts[3:])}"
        theirs[new] = value
        if ".conv." in new or ".norm." in new:
            theirs[new.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")] = value
        if new.startswith("encoder."):
            theirs[f"decoder.{new}"] = value
    return theirs


def write_model(
    folder: Path,
    *,
    plans_json: dict[str, Any],
    name: str,
    weights: dict[str, dict[str, Tensor]],
    dataset: dict[str, Any] = DATASET,
    mirror_axes: Any = "all",
    trainer: str = "nnUNetTrainer",
) -> Path:
    """A folder Trainer__Plans__`name` with one checkpoint per entry of `weights` (fold folder name to weights)."""
    model = folder / f"{trainer}__nnUNetPlans__{name}"
    model.mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(plans_json))
    (model / "dataset.json").write_text(json.dumps(dataset))
    axes = mirror_axes if mirror_axes != "all" else (0, 1) if name == "2d" else (0, 1, 2)
    for fold, tensors in weights.items():
        (model / fold).mkdir()
        content = {
            "network_weights": tensors,
            "optimizer_state": {},
            "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "epoch_start_timestamps": [1.0]},
            "_best_ema": np.float64(0.7),
            "current_epoch": 1000,
            "init_args": {"configuration": name, "device": torch.device("cuda")},
            "trainer_name": trainer,
            "inference_allowed_mirroring_axes": axes,
        }
        torch.save(content, model / fold / "checkpoint_final.pth")
    return model
