"""nnU-Net checkpoints, read without executing anything in them, and their weights under our names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoseg3d.errors import ModelError

# Numbers that nnU-Net's logger leaves in a checkpoint; all of them plain data. numpy before 2 files them under numpy.core, numpy from 2
# on under numpy._core; a checkpoint may come from either.
_KINDS = ("Float16", "Float32", "Float64", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Bool")
_NUMBERS = [np.dtype, np.ndarray, *(getattr(np.dtypes, f"{kind}DType") for kind in _KINDS)]
_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
_PLAIN_DATA: list[Any] = list(_NUMBERS)
for _core in ("numpy.core", "numpy._core"):
    _PLAIN_DATA += [(_SCALAR, f"{_core}.multiarray.scalar"), (_ARRAY, f"{_core}.multiarray._reconstruct")]
# How torch's loader names what a file asks for.
_ASKED_FOR = re.compile(r"GLOBAL (\S+)")

# nnU-Net's name (without prefixes and copies) to ours, first match wins.
_NAMES = (
    (re.compile(r"encoder\.stem\.convs\.0\.(conv|norm)\.(weight|bias)"), r"encoder.stem.\1.\2"),
    (re.compile(r"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.(conv|norm)\.(weight|bias)"), r"encoder.stages.\1.\2.\3.\4"),
    (re.compile(r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.(conv1|conv2)\.(conv|norm)\.(weight|bias)"), r"encoder.stages.\1.\2.\3.\4.\5"),
    (re.compile(r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.[01]\.(conv|norm)\.(weight|bias)"), r"encoder.stages.\1.\2.project.\3.\4"),
    (re.compile(r"decoder\.stages\.(\d+)\.convs\.(\d+)\.(conv|norm)\.(weight|bias)"), r"decoder.stages.\1.\2.\3.\4"),
    (re.compile(r"decoder\.transpconvs\.(\d+)\.(weight|bias)"), r"decoder.upsamplings.\1.\2"),
    (re.compile(r"decoder\.seg_layers\.(\d+)\.(weight|bias)"), r"decoder.heads.\1.\2"),
)


@dataclass(frozen=True)
class Checkpoint:
    """What matters of a checkpoint: weights under our names, and the axes along which prediction may mirror."""

    weights: dict[str, Tensor]
    mirror_axes: tuple[int, ...] | None
    configuration: str | None


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a .pth file with torch's restricted loader. Raises ModelError naming what stands in the way."""
    try:
        with torch.serialization.safe_globals(_PLAIN_DATA):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that are broken or hold more than data
        reason = _reason(error)
        remedy = "Export the model anew from nnU-Net; files that hold code are never loaded"
        raise ModelError(f"cannot be read as plain data: {reason}", code="E_CHECKPOINT", file=path, remedy=remedy) from error
    if not isinstance(content, Mapping) or not isinstance(content.get("network_weights"), Mapping):
        raise ModelError("not an nnU-Net v2 checkpoint", code="E_CHECKPOINT", file=path, field="network_weights")
    axes = content.get("inference_allowed_mirroring_axes")
    arguments = content.get("init_args")
    configuration = arguments.get("configuration") if isinstance(arguments, Mapping) else None
    return Checkpoint(
        weights=renamed(content["network_weights"], file=path),
        mirror_axes=None if axes is None else tuple(int(axis) for axis in axes),
        configuration=configuration if isinstance(configuration, str) else None,
    )


def _reason(error: Exception) -> str:
    """Why a file was refused. torch's own words are not repeated where they tell how to load it nevertheless."""
    if found := _ASKED_FOR.search(str(error)):
        return f"it asks for {found.group(1)[:100]}"
    if "weights_only" in str(error):
        return "it is damaged, or was not written by PyTorch"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def renamed(weights: Mapping[str, Any], *, file: Path) -> dict[str, Tensor]:
    """nnU-Net's weights under our names, float32, 2D kernels with a leading axis of one.

    Copies of the same tensors (`decoder.encoder.*`, `*.all_modules.*`) are dropped. Raises ModelError for a name that no
    plain or residual-encoder U-Net has.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        plain = name.removeprefix("module.").removeprefix("_orig_mod.").removeprefix("module.")
        if plain.startswith("decoder.encoder.") or ".all_modules." in plain:
            continue
        match = next(((pattern, new) for pattern, new in _NAMES if pattern.fullmatch(plain)), None)
        if match is None or not isinstance(tensor, Tensor):
            wanted = "the layers of PlainConvUNet or ResidualEncoderUNet, with instance normalisation"
            raise ModelError("the network has a layer that is not known", code="E_ARCHITECTURE", file=file, wanted=wanted, got=name)
        ours[match[0].sub(match[1], plain)] = (tensor.unsqueeze(2) if tensor.dim() == 4 else tensor).float().contiguous()
    return ours
