"""Export: the network of a model written as ONNX or as torch's exported program, then run and compared before it is kept."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoseg3d import files
from autoseg3d.errors import ModelError, UsageError
from autoseg3d.export.description import INPUT, OUTPUT, describe
from autoseg3d.networks.portable import MeanLogits, portable
from autoseg3d.package import ModelPackage
from autoseg3d.prediction.predictor import choose_configuration, choose_folds, load_network

FORMATS = ("onnx", "torch-export")
# Greatest difference of a logit between the file as run and torch, as a share of the largest logit. Rounding alone
# gives about a hundredth of it; a wrong axis, padding or statistic gives a thousand times as much.
TOLERANCE = 1e-3
# A protobuf file cannot hold more, and weights beside the file would not be one file.
_ONNX_LIMIT = 2 * 2**30 - 2**20

Runner = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """What was written, and how it did when it was run.

    folds       fused in the file by the mean of their logits
    difference  greatest difference from torch's own logits, as a share of the largest logit
    equal       share of voxels with the same winning class
    """

    path: Path
    format: str
    configuration: str
    folds: tuple[str, ...]
    difference: float
    equal: float


def export_network(
    package: ModelPackage, out: Path, *, format: str, configuration: str | None = None, folds: Sequence[str] | None = None
) -> Exported:
    """Writes the network of a model to one file, with the plan and the meaning of input and output in it.

    The file takes (batch, channels, Z, Y, X) float32 of the patch size, any batch, and gives logits (batch, classes, Z, Y, X).
    It is run on two batch sizes and kept only where it agrees with torch within TOLERANCE.

    Args:
        package: an open package.
        out: the file; replaced where there is one.
        format: "onnx" (needs the extra `onnx`) or "torch-export".
        configuration: the one `predict` would take where None.
        folds: those `predict` would fuse where None.

    Raises UsageError for an unknown format or a missing extra, ModelError where the network cannot be exported or the file
    gives other logits.
    """
    writers = {"onnx": _write_onnx, "torch-export": _write_program}
    if format not in writers:
        raise UsageError("unknown format to export to", field="format", wanted=", ".join(FORMATS), got=format)
    if format == "onnx":
        need_extra("onnx", "onnx", "onnxscript", "onnxruntime")
    name = choose_configuration(package, configuration)
    chosen = choose_folds(package, name, folds)
    network = MeanLogits([portable(load_network(package, name, fold)) for fold in chosen]).eval()
    shape = (package.plan.in_channels(name), *package.plan.configurations[name].patch_size)
    with files.replacing(out) as temporary:
        try:
            with _silent(), torch.no_grad():
                run = writers[format](network, shape, temporary, describe(package, name, chosen))
        except UsageError:
            raise
        except Exception as error:  # exporters raise many kinds for what they cannot follow
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ModelError(f"the network cannot be exported: {reason}", code="E_EXPORT", file=package.location, field=format) from error
        difference, equal = _compare(network, run, shape, regions=package.plan.labels.has_regions)
        if not difference <= TOLERANCE:
            raise ModelError(
                "the exported network gives other logits than torch",
                code="E_EXPORT",
                file=out,
                wanted=f"{TOLERANCE}",
                got=f"{difference:.2g}",
            )
    return Exported(out, format, name, chosen, difference, equal)


def need_extra(extra: str, *modules: str) -> None:
    """Raises UsageError naming the extra where one of its modules is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        remedy = f'Install it with: pip install "autoseg3d[{extra}]"'
        raise UsageError(f"the extra {extra} is not installed", code="E_EXTRA", wanted=", ".join(modules), got=missing, remedy=remedy)


def _traced(network: nn.Module, shape: tuple[int, ...]) -> Any:
    """The network as torch's exported program, with any batch size."""
    # Two in a batch: torch takes a size of one for a constant.
    return torch.export.export(network, (torch.zeros(2, *shape),), dynamic_shapes=({0: torch.export.Dim("batch")},))


def _write_program(network: nn.Module, shape: tuple[int, ...], path: Path, texts: dict[str, str]) -> Runner:
    torch.export.save(_traced(network, shape), path, extra_files=texts)
    return torch.export.load(path).module()


def _write_onnx(network: nn.Module, shape: tuple[int, ...], path: Path, texts: dict[str, str]) -> Runner:
    import onnx
    import onnxruntime

    program = torch.onnx.export(_traced(network, shape), input_names=[INPUT], output_names=[OUTPUT], dynamo=True, verbose=False)
    assert program is not None
    model = program.model_proto
    if model.ByteSize() > _ONNX_LIMIT:
        remedy = "Export one fold at a time, or use --format torch-export"
        raise UsageError("too large for one ONNX file", field="folds", wanted="less than 2 GB", got=model.ByteSize(), remedy=remedy)
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run([OUTPUT], {INPUT: x.numpy()})[0])


@torch.no_grad()
def _compare(network: nn.Module, run: Runner, shape: tuple[int, ...], *, regions: bool) -> tuple[float, float]:
    """(greatest difference as a share of the largest logit, share of equal voxels) over batches of one and of two."""
    generator = torch.Generator().manual_seed(0)
    difference, equal = 0.0, 1.0
    for batch in (1, 2):
        image = torch.randn((batch, *shape), generator=generator)
        wanted, got = network(image), run(image)
        if got.shape != wanted.shape:
            return float("inf"), 0.0
        scale = float(wanted.abs().max().clamp(min=1e-6))
        difference = max(difference, float((got - wanted).abs().max()) / scale)
        same = ((got > 0) == (wanted > 0)).all(dim=1) if regions else got.argmax(dim=1) == wanted.argmax(dim=1)
        equal = min(equal, float(same.float().mean()))
    return difference, equal


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps the exporters' remarks about themselves off the terminal; their exceptions pass."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
