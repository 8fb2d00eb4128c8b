"""The network of an nnU-Net configuration as our stage table, from plans of today and from before 2.4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoseg3d.errors import ModelError
from planners.plan import NetworkPlan, Stage

Json = Mapping[str, Any]

_ARCHITECTURES = {"PlainConvUNet": "unet", "ResidualEncoderUNet": "resenc"}
_LIBRARY = "dynamic_network_architectures."
# What an architecture's table may say: the shape of the network, and settings that prediction does without.
_SHAPE = {"n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage", "n_conv_per_stage_decoder"}
_WITHOUT_EFFECT = {"dropout_op", "dropout_op_kwargs", "deep_supervision", "conv_bias"}
# Values that our networks have built in, which are also torch's own where a table leaves them out; a plan that says otherwise
# would be predicted wrongly.
_FIXED_LAYERS: dict[str, dict[str, Any]] = {
    "norm_op_kwargs": {"eps": 1e-5, "track_running_stats": False},
    "nonlin_kwargs": {"negative_slope": 0.01},
}
_FIXED_SETTINGS: dict[str, Any] = {"nonlin_first": False, "bottleneck_channels": None, "stem_channels": None}

# As many as a plan may hold.
_MOST_STAGES = 32


def read_network(entry: Json, name: str) -> NetworkPlan:
    """The network of a configuration with what it inherits. Raises ModelError for a setting that ours would not honour."""
    kind, table = _architecture(entry, name)
    axes, stages = len(entry["patch_size"]), _stages(table)
    blocks = table["n_blocks_per_stage"] if kind == "resenc" else table["n_conv_per_stage"]
    rows = zip(
        _repeated(table["features_per_stage"], stages),
        _repeated(table["kernel_sizes"], stages),
        _repeated(table["strides"], stages),
        _repeated(blocks, stages),
        strict=True,
    )
    return NetworkPlan(
        architecture=kind,
        stages=tuple(
            Stage(features=features, kernel=triple(_repeated(kernel, axes)), stride=triple(_repeated(stride, axes)), blocks=count)
            for features, kernel, stride, count in rows
        ),
        # nnU-Net lists decoder stages coarsest first.
        decoder_blocks=tuple(reversed(_repeated(table["n_conv_per_stage_decoder"], stages - 1))),
    )


def _stages(table: Json) -> int:
    count = int(table["n_stages"]) if "n_stages" in table else len(table["kernel_sizes"])
    if not 2 <= count <= _MOST_STAGES:
        raise ModelError("no such network can be built", field="n_stages", wanted=f"2 to {_MOST_STAGES}", got=count)
    return count


def _architecture(entry: Json, name: str) -> tuple[str, Json]:
    """Our name of the architecture and its stage table, of plans with an `architecture` entry and of those before 2.4."""
    if "architecture" not in entry:
        table = _table_before_2_4(entry)
        full_name = f"{_LIBRARY}{entry.get('UNet_class_name', 'PlainConvUNet')}"
    else:
        table = entry["architecture"]["arch_kwargs"]
        full_name = str(entry["architecture"]["network_class_name"])
    short = full_name.rsplit(".", 1)[-1]
    if short not in _ARCHITECTURES or not full_name.startswith(_LIBRARY):
        wanted = f"{' or '.join(sorted(_ARCHITECTURES))} of {_LIBRARY.rstrip('.')}"
        raise ModelError("unknown architecture", field=f"{name}.architecture", code="E_ARCHITECTURE", wanted=wanted, got=full_name)
    if "architecture" in entry:
        _check_layers(table, f"{name}.architecture", axes=len(entry["patch_size"]))
    return _ARCHITECTURES[short], table


def _check_layers(table: Json, where: str, *, axes: int) -> None:
    """Refuses every setting of the network that ours would not honour."""
    layers = {"conv_op": f"Conv{axes}d", "norm_op": f"InstanceNorm{axes}d", "nonlin": "LeakyReLU"}
    for field, wanted in layers.items():
        got = str(table.get(field))
        if not got.startswith("torch.nn.") or got.rsplit(".", 1)[-1] != wanted:
            raise ModelError("unknown network setting", field=f"{where}.{field}", wanted=f"torch.nn's {wanted}", got=got)
    for field, fixed in _FIXED_LAYERS.items():
        given = table.get(field) or {}
        if any(given.get(key, value) != value for key, value in fixed.items()):
            raise ModelError("unknown network setting", field=f"{where}.{field}", wanted=fixed, got=given)
    known = _SHAPE | _WITHOUT_EFFECT | set(layers) | set(_FIXED_LAYERS)
    for field, value in table.items():
        if field not in known and (field not in _FIXED_SETTINGS or value != _FIXED_SETTINGS[field]):
            wanted = _FIXED_SETTINGS.get(field, "a setting that this program knows")
            raise ModelError("unknown network setting", field=f"{where}.{field}", wanted=wanted, got=value)


def parts_left_out(entry: Json) -> dict[str, float]:
    """Parts of layers that the network goes without, and the value that changes nothing in their place."""
    architecture = entry.get("architecture")
    if architecture is None:
        return {}
    table = architecture["arch_kwargs"]
    absent = {} if table.get("conv_bias", False) else {"conv.bias": 0.0, "upsamplings.bias": 0.0}
    # torch's instance normalisation has neither scale nor shift unless it is asked for them.
    affine = (table.get("norm_op_kwargs") or {}).get("affine", False)
    return absent if affine else {**absent, "norm.weight": 1.0, "norm.bias": 0.0}


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


def _repeated(value: int | Sequence[Any], count: int) -> tuple[Any, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)


def triple(values: Sequence[float]) -> tuple[Any, ...]:
    """Three values of two or three: a 2d configuration leads with 1."""
    return (1, *values) if len(values) == 2 else tuple(values)
