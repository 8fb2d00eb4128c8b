"""Which files hold a volume, so that whoever remembers a result knows when its input has changed."""

from __future__ import annotations

from pathlib import Path

from autoseg3d.errors import DataError
from autoseg3d.io.metaimage import looks_like_metaimage
from autoseg3d.io.metaimage import voxel_file as metaimage_voxels
from autoseg3d.io.names import is_clutter
from autoseg3d.io.nifti import header_file, image_file
from autoseg3d.io.nrrd import looks_like_nrrd
from autoseg3d.io.nrrd import voxel_file as nrrd_voxels

_PAIR_NAMES = (".hdr", ".img", ".hdr.gz", ".img.gz")
_WHOLE_NAMES = (".nii", ".nii.gz", ".mgh", ".mgz", ".dcm")
_SNIFFED_BYTES = 4096


def parts(path: Path) -> list[Path]:
    """Every file of the volume at `path`: all of a DICOM folder, both of a .hdr/.img pair, a text header and the file it names.

    Of a header that cannot be read, or names a file that is not there, only the header. Raises OSError where `path` itself
    cannot be looked at.
    """
    if path.is_dir():
        return sorted(entry for entry in path.iterdir() if entry.is_file() and not is_clutter(entry.name))
    try:
        if path.name.lower().endswith(_PAIR_NAMES):
            header = header_file(path)
            return [header, image_file(header)]
        voxels = _named_by_header(path)
    except DataError:
        return [path]
    return [path] if voxels in (None, path) else [path, voxels]


def _named_by_header(path: Path) -> Path | None:
    if path.name.lower().endswith(_WHOLE_NAMES):
        return None
    with open(path, "rb") as file:
        head = file.read(_SNIFFED_BYTES)
    if looks_like_nrrd(head):
        return nrrd_voxels(path)
    return metaimage_voxels(path) if looks_like_metaimage(head) else None


def stamps(path: Path) -> list[tuple[str, int, int]]:
    """(name, bytes, time of change in ns) of each of the volume's `parts`, to tell whether it is the one that was read before.

    Raises OSError where one is missing.
    """
    return [(part.name, (status := part.stat()).st_size, status.st_mtime_ns) for part in parts(path)]
