"""nnU-Net's plans.json and dataset.json as our Plan: every field is either honoured or refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoseg3d.errors import ModelError
from planners.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics, Orientation, fingerprint_from_nnunet
from planners.labels import LabelTable, label_table
from planners.plan import Configuration, NetworkPlan, Normalization, Plan, Stage

Json = Mapping[str, Any]

_NORMALIZATIONS: dict[str, Normalization] = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}
# nnU-Net's readers: what they hand to the network is turned to RAS, or lies as it is stored.
_READERS: dict[str, Orientation] = {
    "SimpleITKIO": "as-stored",
    "NibabelIO": "as-stored",
    "Tiff3DIO": "as-stored",
    "NaturalImage2DIO": "as-stored",
    "SimpleITKIOWithReorient": "canonical",
    "NibabelIOWithReorient": "canonical",
}
_ARCHITECTURES = {"PlainConvUNet": "unet", "ResidualEncoderUNet": "resenc"}
# Values that our networks and resampling have built in; a plan that says otherwise would be predicted wrongly.
# Dropout is not among them: prediction goes without.
_FIXED_NETWORK: dict[str, Any] = {"conv_bias": True}
_FIXED_LAYERS: dict[str, dict[str, Any]] = {"norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin_kwargs": {"negative_slope": 0.01}}
_FIXED_RESAMPLING = {
    "resampling_fn_data": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}


def read_labels(dataset: Json) -> LabelTable:
    """The label table of a dataset.json. Raises ModelError where it makes no sense."""
    try:
        return label_table(dict(dataset["labels"]), dataset.get("regions_class_order"))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"dataset.json has no usable labels: {error}", field="labels") from error


def channel_names(dataset: Json) -> tuple[str, ...]:
    """Channel names in the order of their numbers; very old datasets say `modality`."""
    names = dataset.get("channel_names") or dataset.get("modality")
    if not isinstance(names, Mapping) or not names:
        raise ModelError("dataset.json names no channels", field="channel_names")
    return tuple(str(names[key]) for key in sorted(names, key=int))


def read_plan(plans: Json, dataset: Json, *, configurations: Sequence[str], mirror_axes: tuple[int, ...]) -> Plan:
    """The Plan of the named configurations. `mirror_axes` are network axes of a 3D network.

    Raises ModelError naming the field that our networks, normalisation or resampling cannot honour.
    """
    channels = channel_names(dataset)
    statistics = plans["foreground_intensity_properties_per_channel"]
    return Plan(
        planner="nnunet-import",
        dataset_name=str(plans.get("dataset_name", "imported")),
        orientation=_orientation(plans),
        axis_order=tuple(plans["transpose_forward"]),
        mirror_axes=mirror_axes,
        channel_names=channels,
        labels=read_labels(dataset),
        intensities=tuple(IntensityStatistics.model_validate(_statistics(statistics[str(i)])) for i in range(len(channels))),
        configurations={name: _configuration(plans, name) for name in configurations},
    )


def _orientation(plans: Json) -> Orientation:
    """How scans are turned, by the name of the reader that nnU-Net used; plans that name none were made with SimpleITK's."""
    reader = str(plans.get("image_reader_writer", "SimpleITKIO"))
    if reader not in _READERS:
        raise ModelError("unknown reader of images", field="image_reader_writer", wanted=sorted(_READERS), got=reader)
    return _READERS[reader]


def _statistics(entry: Json) -> dict[str, float]:
    return {name: float(entry[name]) for name in IntensityStatistics.model_fields}


def inherited(plans: Json, name: str) -> dict[str, Any]:
    """A configuration with what it inherits, the child's own keys winning. Raises ModelError for an unknown name or a ring."""
    merged: dict[str, Any] = {}
    seen: list[str] = []
    while name:
        if name in seen or name not in plans["configurations"]:
            raise ModelError("plans.json has no such configuration", field=f"configurations.{name}", got=" -> ".join([*seen, name]))
        seen.append(name)
        own = plans["configurations"][name]
        merged = {**own, **{key: value for key, value in merged.items() if key != "inherits_from"}}
        name = own.get("inherits_from", "")
    return merged


def _configuration(plans: Json, name: str) -> Configuration:
    entry = inherited(plans, name)
    if entry.get("preprocessor_name", "DefaultPreprocessor") != "DefaultPreprocessor":
        raise ModelError("unknown preprocessing", field=f"{name}.preprocessor_name", got=entry["preprocessor_name"])
    for field, wanted in _FIXED_RESAMPLING.items():
        settings = {**wanted, **entry.get(f"{field}_kwargs", {})}
        if entry.get(field, "resample_data_or_seg_to_shape") != "resample_data_or_seg_to_shape" or settings != wanted:
            raise ModelError("unknown resampling", field=f"{name}.{field}", wanted=wanted, got=f"{entry.get(field)} {settings}")
    flat = len(entry["patch_size"]) == 2
    schemes = entry["normalization_schemes"]
    if unknown := [scheme for scheme in schemes if scheme not in _NORMALIZATIONS]:
        raise ModelError("unknown normalisation", field=f"{name}.normalization_schemes", wanted=sorted(_NORMALIZATIONS), got=unknown)
    return Configuration.model_validate(
        {
            "spacing_mm": _triple(entry["spacing"]),
            "median_shape": _triple(entry["median_image_size_in_voxels"]),
            "patch_size": _triple(entry["patch_size"]),
            "batch_size": entry["batch_size"],
            "network": _network(entry, name),
            "normalization": tuple(_NORMALIZATIONS[scheme] for scheme in schemes),
            "use_mask_for_norm": tuple(entry["use_mask_for_norm"]),
            "batch_dice": bool(entry.get("batch_dice", False)),
            "slicewise": flat,
            "previous_stage": entry.get("previous_stage"),
        }
    )


def _network(entry: Json, name: str) -> NetworkPlan:
    kind, table = _architecture(entry, name)
    stages = len(table["kernel_sizes"])
    blocks = table["n_blocks_per_stage"] if kind == "resenc" else table["n_conv_per_stage"]
    return NetworkPlan(
        architecture=kind,
        stages=tuple(
            Stage(features=features, kernel=_triple(kernel), stride=_triple(stride), blocks=count)
            for features, kernel, stride, count in zip(
                table["features_per_stage"], table["kernel_sizes"], table["strides"], _repeated(blocks, stages), strict=True
            )
        ),
        # nnU-Net lists decoder stages coarsest first.
        decoder_blocks=tuple(reversed(_repeated(table["n_conv_per_stage_decoder"], stages - 1))),
    )


def _architecture(entry: Json, name: str) -> tuple[str, Json]:
    """Our name of the architecture and its stage table, of plans with an `architecture` entry and of those before 2.4."""
    if "architecture" not in entry:
        table = _table_before_2_4(entry)
        full_name = str(entry.get("UNet_class_name", "PlainConvUNet"))
    else:
        table = entry["architecture"]["arch_kwargs"]
        full_name = str(entry["architecture"]["network_class_name"])
        for field, wanted in _FIXED_NETWORK.items():
            if table.get(field, wanted) != wanted:
                raise ModelError("unknown network setting", field=f"{name}.architecture.{field}", wanted=wanted, got=table[field])
        for field, fixed in _FIXED_LAYERS.items():
            given = table.get(field) or {}
            if any(given.get(key, value) != value for key, value in fixed.items()) or given.get("track_running_stats"):
                raise ModelError("unknown network setting", field=f"{name}.architecture.{field}", wanted=fixed, got=given)
        for field, ending in (("norm_op", "InstanceNorm"), ("nonlin", "LeakyReLU")):
            if ending not in str(table.get(field, ending)):
                raise ModelError("unknown network setting", field=f"{name}.architecture.{field}", wanted=ending, got=table[field])
    short = full_name.rsplit(".", 1)[-1]
    if short not in _ARCHITECTURES:
        raise ModelError(
            "unknown architecture", field=f"{name}.architecture", code="E_ARCHITECTURE", wanted=sorted(_ARCHITECTURES), got=full_name
        )
    return _ARCHITECTURES[short], table


def _table_before_2_4(entry: Json) -> dict[str, Any]:
    stages = len(entry["conv_kernel_sizes"])
    base, top = entry["UNet_base_num_features"], entry["unet_max_num_features"]
    return {
        "features_per_stage": [min(base * 2**i, top) for i in range(stages)],
        "kernel_sizes": entry["conv_kernel_sizes"],
        "strides": entry["pool_op_kernel_sizes"],
        "n_conv_per_stage": entry["n_conv_per_stage_encoder"],
        "n_blocks_per_stage": entry["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": entry["n_conv_per_stage_decoder"],
    }


def _repeated(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)


def _triple(values: Sequence[float]) -> tuple[Any, ...]:
    return (1, *values) if len(values) == 2 else tuple(values)


def read_fingerprint(fingerprint: Json | None, plans: Json, dataset: Json) -> Fingerprint:
    """The dataset's fingerprint; where the model came without one, a single case of the plan's median shape and spacing."""
    labels = read_labels(dataset)
    if fingerprint is not None:
        return fingerprint_from_nnunet(fingerprint, dataset, labels)
    backward = plans["transpose_backward"]
    shape = [max(1, round(plans["original_median_shape_after_transp"][i])) for i in backward]
    spacing = [plans["original_median_spacing_after_transp"][i] for i in backward]
    channels = channel_names(dataset)
    statistics = plans["foreground_intensity_properties_per_channel"]
    case = {"id": "median", "shape": shape, "shape_after_crop": shape, "spacing_mm": spacing, "relative_size_after_crop": 1.0}
    return Fingerprint(
        dataset_name=str(plans.get("dataset_name", "imported")),
        channel_names=channels,
        labels=labels,
        num_training=int(dataset.get("numTraining", 1)),
        cases=(CaseFingerprint.model_validate(case),),
        intensities=tuple(IntensityStatistics.model_validate(_statistics(statistics[str(i)])) for i in range(len(channels))),
        median_relative_size_after_crop=1.0,
    )
