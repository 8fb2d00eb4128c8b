"""nnU-Net's plans.json and dataset.json as our Plan: every field is either honoured or refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoseg3d.errors import ModelError
from autoseg3d.import_nnunet.architecture import Json, read_network, triple
from planners.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics, Orientation, fingerprint_from_nnunet
from planners.labels import LabelTable, label_table
from planners.plan import Configuration, Normalization, Plan

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
# Values that our resampling has built in; a plan that says otherwise would be predicted wrongly.
_FIXED_RESAMPLING = {
    "resampling_fn_data": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}
_CASCADE_RESAMPLING = {"resampling_fn_seg": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None}}
# Stands beside the configurations in plans.json and dataset.json, and must be the same for all that become one model.
_SHARED_PLANS = ("transpose_forward", "image_reader_writer", "label_manager", "foreground_intensity_properties_per_channel")
_SHARED_DATASET = ("labels", "regions_class_order", "channel_names", "modality")


def read_labels(dataset: Json) -> LabelTable:
    """The label table of a dataset.json. Raises ModelError where it makes no sense."""
    try:
        order = dataset.get("regions_class_order")
        named = {name: _whole(value) for name, value in dict(dataset["labels"]).items()}
        table = label_table(named, None if order is None else [int(value) for value in order])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"dataset.json has no usable labels: {error}", field="labels") from error
    if not table.has_regions and table.values != tuple(range(1, len(table.values) + 1)):
        # nnU-Net writes the number of the network's channel, so that these values would not be what it gives.
        wanted = f"0 to {len(table.values)}, without gaps"
        raise ModelError("label values are not consecutive", field="labels", wanted=wanted, got=list(table.values))
    return table


def _whole(value: Any) -> Any:
    """A label value or a list of them, which old datasets wrote as text."""
    return [int(one) for one in value] if isinstance(value, list | tuple) else int(value)


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
    if (manager := plans.get("label_manager", "LabelManager")) != "LabelManager":
        raise ModelError("unknown handling of labels", field="label_manager", wanted="LabelManager", got=manager)
    return Plan(
        planner="nnunet-import",
        window_weights="float16",
        dataset_name=str(plans.get("dataset_name", "imported")),
        orientation=_orientation(plans),
        axis_order=tuple(plans["transpose_forward"]),
        mirror_axes=mirror_axes,
        channel_names=channels,
        labels=read_labels(dataset),
        intensities=_intensities(plans, len(channels)),
        configurations={name: _configuration(plans, name) for name in configurations},
    )


def joined(plans: Mapping[str, Json], datasets: Mapping[str, Json]) -> tuple[Json, Json]:
    """(plans, dataset) of configurations that were trained in folders of their own, each with its plans.json and dataset.json.

    Every configuration counts as its own folder describes it. Raises ModelError where folders differ in what all share.
    """
    first = next(iter(plans))
    for name in plans:
        for file, shared, found in (("plans.json", _SHARED_PLANS, plans), ("dataset.json", _SHARED_DATASET, datasets)):
            for field in shared:
                wanted, got = found[first].get(field), found[name].get(field)
                if wanted != got:
                    raise ModelError(
                        f"{file} of {name} is not that of {first}",
                        field=field,
                        wanted=_short(wanted),
                        got=_short(got),
                        remedy="Give the folder of one configuration at a time, and predict with several --model",
                    )
    own = {name: inherited(plans[name], name) for name in plans}
    return {**plans[first], "configurations": {**plans[first]["configurations"], **own}}, datasets[first]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]} …"


def is_flat(plans: Json, name: str) -> bool:
    """Whether a configuration's network sees single slices."""
    return len(inherited(plans, name)["patch_size"]) == 2


def previous_stage(plans: Json, name: str) -> str | None:
    """The configuration whose labels another one takes as input; None for most."""
    stage = inherited(plans, name).get("previous_stage")
    return None if stage is None else str(stage)


def _intensities(plans: Json, channels: int) -> tuple[IntensityStatistics, ...]:
    """Statistics of the foreground, which early plans filed under another name."""
    early = plans.get("foreground_intensity_properties_by_modality")
    statistics = plans.get("foreground_intensity_properties_per_channel", early)
    if statistics is None:
        raise ModelError("plans.json has no intensities of the foreground", field="foreground_intensity_properties_per_channel")
    return tuple(IntensityStatistics.model_validate(_statistics(statistics[str(i)])) for i in range(channels))


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
    cascade = entry.get("previous_stage") is not None
    for field, wanted in {**_FIXED_RESAMPLING, **(_CASCADE_RESAMPLING if cascade else {})}.items():
        settings = {**wanted, **entry.get(f"{field}_kwargs", {})}
        if entry.get(field, "resample_data_or_seg_to_shape") != "resample_data_or_seg_to_shape" or settings != wanted:
            raise ModelError("unknown resampling", field=f"{name}.{field}", wanted=wanted, got=f"{entry.get(field)} {settings}")
    flat = len(entry["patch_size"]) == 2
    schemes = entry["normalization_schemes"]
    if unknown := [scheme for scheme in schemes if scheme not in _NORMALIZATIONS]:
        raise ModelError("unknown normalisation", field=f"{name}.normalization_schemes", wanted=sorted(_NORMALIZATIONS), got=unknown)
    return Configuration.model_validate(
        {
            "spacing_mm": triple(entry["spacing"]),
            "median_shape": triple(entry.get("median_image_size_in_voxels", entry["patch_size"])),
            "patch_size": triple(entry["patch_size"]),
            "batch_size": entry.get("batch_size", 1),
            "network": read_network(entry, name),
            "normalization": tuple(_NORMALIZATIONS[scheme] for scheme in schemes),
            "use_mask_for_norm": tuple(entry["use_mask_for_norm"]),
            "batch_dice": bool(entry.get("batch_dice", False)),
            "slicewise": flat,
            "previous_stage": entry.get("previous_stage"),
        }
    )


def read_fingerprint(fingerprint: Json | None, plans: Json, dataset: Json) -> Fingerprint:
    """The dataset's fingerprint; where the model came without one, a single case of the plan's median shape and spacing."""
    labels = read_labels(dataset)
    if fingerprint is not None:
        return fingerprint_from_nnunet(fingerprint, dataset, labels)
    backward = plans["transpose_backward"]
    shape = [max(1, round(plans["original_median_shape_after_transp"][i])) for i in backward]
    spacing = [plans["original_median_spacing_after_transp"][i] for i in backward]
    channels = channel_names(dataset)
    case = {"id": "median", "shape": shape, "shape_after_crop": shape, "spacing_mm": spacing, "relative_size_after_crop": 1.0}
    return Fingerprint(
        dataset_name=str(plans.get("dataset_name", "imported")),
        channel_names=channels,
        labels=labels,
        num_training=int(dataset.get("numTraining", 1)),
        cases=(CaseFingerprint.model_validate(case),),
        intensities=_intensities(plans, len(channels)),
        median_relative_size_after_crop=1.0,
    )
