"""Where the trained models of nnU-Net lie: folders `Trainer__Plans__Configuration`, alone, in a results tree, or in a zip."""

from __future__ import annotations

import contextlib
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from autoseg3d import files
from autoseg3d.errors import ModelError

# One float32 checkpoint with optimiser state is about 250 MB, an ensemble of 15 with all extras under 10 GB.
MAX_UNPACKED_BYTES = 64 * 2**30
MAX_FILES = 20_000
MAX_RATIO = 200
_WANTED = re.compile(r"(plans|dataset|dataset_fingerprint|postprocessing)\.json|postprocessing\.pkl|checkpoint_(final|best|latest)\.pth")


@dataclass(frozen=True)
class TrainedModel:
    """One trained-model folder as nnU-Net leaves it.

    configuration   "2d", "3d_fullres", "3d_lowres" or "3d_cascade_fullres"; None where the folder's name does not tell
    checkpoints     fold name ("0" … or "full" for fold_all) to checkpoint file
    """

    folder: Path
    configuration: str | None
    checkpoints: dict[str, Path]


@contextlib.contextmanager
def opened(source: Path) -> Iterator[Path]:
    """`source` itself where it is a folder, or a temporary folder with what an archive holds of use.

    Raises ModelError where it is neither, or the archive breaks a cap or names places outside.
    """
    if source.is_dir():
        yield source
        return
    if not zipfile.is_zipfile(source):
        remedy = "Give the folder that holds plans.json and fold_0, or the zip nnU-Net exported"
        raise ModelError("neither a model folder nor a zip archive", file=source, remedy=remedy)
    with tempfile.TemporaryDirectory(prefix="autoseg3d-import-") as target:
        try:
            with files.storage_errors(Path(target)), zipfile.ZipFile(source) as archive:
                _unpack(archive, Path(target), source)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
            # Cut short, altered, encrypted, or packed in a way that Python does not know.
            remedy = "Get the archive anew, or unpack it and give the folder"
            raise ModelError(f"the archive cannot be unpacked: {error}", code="E_ARCHIVE", file=source, remedy=remedy) from error
        yield Path(target)


def _unpack(archive: zipfile.ZipFile, target: Path, source: Path) -> None:
    entries = [entry for entry in archive.infolist() if _WANTED.fullmatch(PurePosixPath(entry.filename).name)]
    total = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_FILES or total > MAX_UNPACKED_BYTES:
        raise ModelError(
            "the archive unpacks to more than a model needs", code="E_ARCHIVE", file=source, got=f"{len(entries)} files, {total} bytes"
        )
    for entry in entries:
        path = PurePosixPath(entry.filename)
        linked = stat.S_ISLNK(entry.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename or linked:
            raise ModelError("the archive names a place outside itself", code="E_ARCHIVE", file=source, got=entry.filename)
        if entry.file_size > MAX_RATIO * max(entry.compress_size, 1) and entry.file_size > 2**20:
            raise ModelError("an entry is compressed beyond belief", code="E_ARCHIVE", file=source, got=entry.filename)
        archive.extract(entry, target)


def trained_models(root: Path, *, checkpoint: str = "final") -> tuple[TrainedModel, ...]:
    """Every trained model at or up to three folders below `root`, sorted by path.

    `checkpoint` is preferred ("final", "best" or "latest"); where a fold lacks it, final, best, latest are tried in turn.
    Raises ModelError where there is none.
    """
    found = []
    for plans in sorted({p for pattern in ("", "*/", "*/*/", "*/*/*/") for p in root.glob(f"{pattern}plans.json")}):
        folds = {_fold_name(f): _checkpoint(f, checkpoint) for f in sorted(plans.parent.glob("fold_*")) if f.is_dir()}
        checkpoints = {name: path for name, path in folds.items() if path is not None}
        if checkpoints:
            parts = plans.parent.name.split("__")
            found.append(TrainedModel(plans.parent, parts[2] if len(parts) == 3 else None, checkpoints))
    if not found:
        wanted = "plans.json beside fold_0/checkpoint_final.pth, here or up to three folders below"
        raise ModelError("no trained nnU-Net model found", file=root, wanted=wanted)
    return tuple(found)


def _fold_name(folder: Path) -> str:
    name = folder.name.removeprefix("fold_")
    return "full" if name == "all" else name


def _checkpoint(fold: Path, preferred: str) -> Path | None:
    names = dict.fromkeys((preferred, "final", "best", "latest"))
    return next((p for name in names if (p := fold / f"checkpoint_{name}.pth").is_file()), None)
