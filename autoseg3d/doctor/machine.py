"""Memory, disk, write rights, clock, processes and devices of this machine, as far as they decide what will work."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch

import autoseg3d
from autoseg3d import files
from autoseg3d.devices import fast_bfloat16, free_memory_bytes
from autoseg3d.doctor.findings import Finding
from autoseg3d.errors import Autoseg3dError
from autoseg3d.workers import map_cases, worker_count

GIB = 2**30
LITTLE_MEMORY, TOO_LITTLE_MEMORY = 4 * GIB, GIB
LITTLE_GPU_MEMORY = 2 * GIB
LITTLE_DISK, TOO_LITTLE_DISK = 5 * GIB, GIB // 4
# Before the first release no clock is right; a minute between the disk's clock and ours comes of a network drive.
RELEASED = datetime(2026, 11, 1, tzinfo=UTC)
CLOCK_DIFFERENCE_SECONDS = 60.0

# What each extra is for, by a module that only it brings.
EXTRAS = {
    "dicom": ("pydicom", "reading DICOM series"),
    "openvino": ("openvino", "predicting with --backend openvino"),
    "onnx": ("onnxruntime", "writing models as ONNX"),
    "batchgenerators": ("batchgenerators", "training with --augmentation batchgenerators"),
}


def examine_machine(folder: Path) -> Iterator[Finding]:
    """Everything but the prediction, one finding after the other. Results would be written into `folder`."""
    yield _versions()
    yield _processor()
    yield from _accelerators()
    yield _memory()
    yield _disk(folder)
    yield _writing(folder)
    yield _clock(folder)
    yield _processes()
    yield _extras()


def _versions() -> Finding:
    versions = f"autoseg3d {autoseg3d.__version__}, Python {platform.python_version()}, torch {torch.__version__}"
    return Finding("versions", "fine", f"{versions}, {platform.system()} {platform.machine()}")


def _processor() -> Finding:
    precision = "bfloat16 and float32" if fast_bfloat16("cpu") else "float32 (bfloat16 is not faster here)"
    cores = worker_count()
    said = f"{cores} for this process, {torch.get_num_threads()} threads; computes in {precision}"
    if cores == 1:
        return Finding("processor", "warning", f"{said}. With a single core everything works, slowly")
    return Finding("processor", "fine", said)


def _accelerators() -> Iterator[Finding]:
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            said = f"{torch.cuda.get_device_name(index)}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
            yield Finding(
                f"GPU {index}",
                "fine" if free > 2 * GIB else "warning",
                said,
                "" if free > 2 * GIB else "Other programs hold its memory; close them",
            )
    elif torch.backends.mps.is_available():
        yield Finding("GPU", "fine", "Apple's, through MPS; autoseg3d has not been tested on it")
    elif torch.version.cuda:
        yield Finding(
            "GPU",
            "warning",
            "torch is built for CUDA but sees no GPU",
            "Check nvidia-smi and the driver; until then the processor computes",
        )
    else:
        yield Finding("GPU", "fine", "none; the processor computes, which takes minutes where a GPU takes seconds")


def _memory() -> Finding:
    free, total = free_memory_bytes(torch.device("cpu")), psutil.virtual_memory().total
    said, remedy = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free", "Close other programs, or use a machine with more"
    if free < TOO_LITTLE_MEMORY:
        return Finding("memory", "fault", f"{said}: predictions will be stopped for want of memory", remedy)
    if free < LITTLE_MEMORY:
        return Finding("memory", "warning", f"{said}: large scans and most trainings will not fit", remedy)
    return Finding("memory", "fine", said)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    said, remedy = f"{free / GIB:.1f} GiB free where {folder} lies", "Free some, or choose a folder on another disk"
    if free < TOO_LITTLE_DISK:
        return Finding("disk", "fault", f"{said}: results will not fit", remedy)
    if free < LITTLE_DISK:
        return Finding(
            "disk", "warning", f"{said}: trainings keep a copy of the dataset there", "Free some, or choose a folder on another disk"
        )
    return Finding("disk", "fine", said)


def _writing(folder: Path) -> Finding:
    """Whole files, renaming and locks, as every command needs them."""
    probe = folder / f".autoseg3d-doctor-{os.getpid()}"
    try:
        with files.lock(probe):
            files.write_text(probe / "file", "first")
            files.write_text(probe / "file", "second")
            whole = (probe / "file").read_text() == "second"
    except (Autoseg3dError, OSError) as error:
        return Finding("writing", "fault", f"files cannot be written in {folder}: {error}", "Choose a folder that you may write to")
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    if not whole:
        return Finding("writing", "fault", f"a file in {folder} did not come back as it was written", "Do not use this disk for results")
    return Finding("writing", "fine", "files appear whole, replace each other, and can be locked")


def _clock(folder: Path) -> Finding:
    now = datetime.now(UTC)
    if now < RELEASED:
        return Finding(
            "clock", "warning", f"it says {now:%Y-%m-%d}, before this program was made; records would carry wrong times", "Set the clock"
        )
    probe = folder / f".autoseg3d-clock-{os.getpid()}"
    try:
        files.write_text(probe, "")
        difference = abs(probe.stat().st_mtime - time.time())
    except (Autoseg3dError, OSError):
        return Finding("clock", "fine", f"{now:%Y-%m-%d %H:%M} UTC")  # that nothing can be written is told elsewhere
    finally:
        probe.unlink(missing_ok=True)
    if difference > CLOCK_DIFFERENCE_SECONDS:
        return Finding(
            "clock",
            "warning",
            f"the disk's clock is {difference:.0f} s off this machine's; a lock left by a stopped machine may be judged wrongly",
            "Set both by a time server",
        )
    return Finding("clock", "fine", f"{now:%Y-%m-%d %H:%M} UTC")


def _processes() -> Finding:
    outcomes = list(map_cases(abs, [-1, -2], workers=2, what="", timeout_seconds=120.0))
    troubles = [str(outcome.error) for outcome in outcomes if outcome.error is not None]
    if troubles:
        return Finding("processes", "fault", f"a second process cannot be started: {troubles[0]}", "Use --workers 0, and report this")
    return Finding("processes", "fine", "work can be shared among processes")


def _extras() -> Finding:
    missing = [f"{name} ({what})" for name, (module, what) in EXTRAS.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return Finding("extras", "fine", "all are installed")
    return Finding("extras", "fine", f"not installed: {', '.join(missing)}", "Where you need one: pip install 'autoseg3d[NAME]'")
