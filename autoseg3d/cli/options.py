"""Options and value parsers that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from autoseg3d.io.nifti_forms import GeometryChoice
    from autoseg3d.prediction.backends import Backend
    from autoseg3d.prediction.body import Crop
    from autoseg3d.prediction.precision import Precision
    from autoseg3d.training.options import Augmentation, Freeze
    from autoseg3d.training.options import Precision as TrainingPrecision

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps. auto takes a GPU where there is one.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Processes that read and prepare cases. Default: one per core, as memory allows.")]
Tolerance = Annotated[
    str | None,
    typer.Option(help="Tolerance of NSD in mm, such as 2, or by label: liver=3,lesion=1. Default: about a voxel, the same for all cases."),
]
Geometry = Annotated[
    str,
    typer.Option(
        help="Which orientation of a NIfTI header to believe where its parts contradict each other: auto refuses such files, "
        "sform, qform or pixdim decides."
    ),
]


def names(text: str | None) -> tuple[str, ...] | None:
    """The names in a list such as "0,1,4"; None stays None."""
    return tuple(part.strip() for part in text.split(",")) if text else None


def tolerances(text: str | None) -> float | dict[str, float] | None:
    """Millimetres such as "2", or by label such as "liver=3,lesion=1"; None stays None."""
    if text is None:
        return None
    try:
        if "=" not in text:
            return _millimetres(text)
        pairs = [part.rpartition("=") for part in text.split(",")]
        return {name.strip(): _millimetres(value) for name, _, value in pairs}
    except ValueError as error:
        raise typer.BadParameter(f"--tolerance takes millimetres such as 2, or liver=3,lesion=1, got '{text}'") from error


def _millimetres(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def memory_bytes(text: str | None, option: str = "--memory") -> int | None:
    """Bytes of a size such as "8GB" or "512MB"; None stays None."""
    from planners.budget import PlanningError
    from planners.edit import parse_memory

    try:
        return None if text is None else parse_memory(text)
    except PlanningError as error:
        raise typer.BadParameter(f"{option} {text}: {error.reason}. {error.remedy}") from error


def geometry_choice(text: str) -> GeometryChoice:
    """One of auto, sform, qform, pixdim."""
    return cast("GeometryChoice", _one_of("--geometry", text, ("auto", "sform", "qform", "pixdim")))


def precision_choice(text: str) -> Precision:
    """One of auto, fp32, bf16."""
    return cast("Precision", _one_of("--precision", text, ("auto", "fp32", "bf16")))


def training_precision_choice(text: str) -> TrainingPrecision:
    """One of auto, fp32, bf16, fp16."""
    return cast("TrainingPrecision", _one_of("--precision", text, ("auto", "fp32", "bf16", "fp16")))


def backend_choice(text: str) -> Backend:
    """One of torch, openvino."""
    return cast("Backend", _one_of("--backend", text, ("torch", "openvino")))


def freeze_choice(text: str | None) -> Freeze | None:
    """One of none, encoder; None stays None."""
    return None if text is None else cast("Freeze", _one_of("--freeze", text, ("none", "encoder")))


def crop_choice(text: str) -> Crop:
    """One of none, body."""
    return cast("Crop", _one_of("--crop", text, ("none", "body")))


def augmentation_choice(text: str) -> Augmentation:
    """One of torch, batchgenerators."""
    return cast("Augmentation", _one_of("--augmentation", text, ("torch", "batchgenerators")))


def _one_of(option: str, text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise typer.BadParameter(f"{option} takes {', '.join(allowed)}, got '{text}'")
    return text


def seconds_of(*, minutes: float | None, hours: float | None) -> float | None:
    """Seconds of a time budget given in minutes or hours, not both."""
    if minutes is not None and hours is not None:
        raise typer.BadParameter("give --minutes or --hours, not both")
    return minutes * 60 if minutes is not None else hours * 3600 if hours is not None else None
