"""nnU-Net's plans in the shape of ours, for comparing the two field by field."""

from __future__ import annotations

from typing import Any

from planners.fingerprint import Fingerprint, fingerprint_from_nnunet
from planners.labels import label_table
from planners.plan import Configuration, Plan

_SCHEMES = {
    "ct": "CTNormalization",
    "zscore": "ZScoreNormalization",
    "none": "NoNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}


def read_fingerprint(pair: dict[str, Any]) -> Fingerprint:
    """The Fingerprint of one entry of the oracle, which holds nnU-Net's fingerprint and dataset.json."""
    labels = label_table(pair["dataset"]["labels"], pair["dataset"].get("regions_class_order"))
    return fingerprint_from_nnunet(pair["fingerprint"], pair["dataset"], labels)


def as_nnunet(configuration: Configuration) -> dict[str, Any]:
    """The fields of a configuration as nnU-Net writes them: 2d without the leading 1."""
    skip = 1 if configuration.slicewise else 0
    stages = configuration.network.stages
    return {
        "spacing": list(configuration.spacing_mm[skip:]),
        "patch_size": list(configuration.patch_size[skip:]),
        "batch_size": configuration.batch_size,
        "median_image_size_in_voxels": list(configuration.median_shape[skip:]),
        "strides": [list(stage.stride[skip:]) for stage in stages],
        "kernel_sizes": [list(stage.kernel[skip:]) for stage in stages],
        "features_per_stage": [stage.features for stage in stages],
        "blocks_encoder": [stage.blocks for stage in stages],
        "blocks_decoder": list(reversed(configuration.network.decoder_blocks)),
        "normalization": [_SCHEMES[scheme] for scheme in configuration.normalization],
        "use_mask_for_norm": list(configuration.use_mask_for_norm),
        "batch_dice": configuration.batch_dice,
    }


def differences(plan: Plan, wanted: dict[str, Any]) -> list[str]:
    """Where a plan departs from nnU-Net's: one line per field, none where they agree (spacings to 1e-6)."""
    found = []
    if list(plan.axis_order) != wanted["transpose_forward"]:
        found.append(f"axis_order {plan.axis_order} != {wanted['transpose_forward']}")
    if sorted(plan.configurations) != sorted(wanted["configurations"]):
        found.append(f"configurations {sorted(plan.configurations)} != {sorted(wanted['configurations'])}")
    for name, fields in wanted["configurations"].items():
        if name in plan.configurations:
            found += _configuration_differences(name, plan.configurations[name], fields)
    return found


def _configuration_differences(name: str, configuration: Configuration, wanted: dict[str, Any]) -> list[str]:
    if name == "3d_cascade_fullres":
        link = (configuration.previous_stage, wanted.get("previous_stage", "3d_lowres"))
        return [] if link[0] == link[1] else [f"{name}.previous_stage {link[0]} != {link[1]}"]
    got = as_nnunet(configuration)
    close = all(abs(a - b) <= 1e-6 for a, b in zip(got["spacing"], wanted["spacing"], strict=True))
    rest = [field for field in got if field != "spacing" and got[field] != wanted[field]]
    return [f"{name}.{field} {got[field]} != {wanted[field]}" for field in ([] if close else ["spacing"]) + rest]
