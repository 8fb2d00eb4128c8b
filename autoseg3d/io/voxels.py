"""From stored numbers to an image (float32) or a label map (integers), with nothing non-finite passed on unseen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from autoseg3d.errors import GeometryError, LabelError, ReadError
from autoseg3d.geometry import Geometry
from autoseg3d.io.payload import Payload

Nonfinite = Literal["refuse", "replace"]

# A label that left its integer by rounding in a float file is still that label; further away it is not a label map.
LABEL_TOLERANCE = 1e-3
# What a format may store behind its voxels: tags and tables of colours.
LARGEST_FOOTER = 2**26
# Up to this share of NaN or infinite voxels a scan may still be predicted, with a note (reference: faults, row 18).
REPLACEABLE_SHARE = 1e-3


@dataclass(frozen=True)
class Volume:
    """One volume as stored.

    array     (Z, Y, X) float32, or int16/int32 for a label map; (C, Z, Y, X) from `read_channels`
    geometry  its grid
    notes     everything that was repaired or assumed while reading, as short sentences; empty for a plain file
    """

    array: np.ndarray
    geometry: Geometry
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What a header says about the voxels that follow it.

    geometry  the grid of one channel
    channels  length of the fourth axis, 1 for a plain volume; the slowest axis unless `interleaved`
    dtype     type and byte order of one stored number; the value is number × slope + intercept
    footer    whether the format may store more after the voxels
    last      whether nothing may follow the voxels: a file that does not say where they begin must prove it by its length
    """

    geometry: Geometry
    dtype: np.dtype
    channels: int = 1
    interleaved: bool = False
    slope: float = 1.0
    intercept: float = 0.0
    footer: bool = False
    last: bool = False
    notes: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        z, y, x = self.geometry.shape
        return self.channels * z * y * x * self.dtype.itemsize

    @property
    def scaled(self) -> bool:
        return (self.slope, self.intercept) != (1.0, 0.0)


def load_numbers(payload: Payload, layout: Layout) -> tuple[np.ndarray, tuple[str, ...]]:
    """The stored numbers, (C, Z, Y, X) in `layout.dtype`, writable, and notes. The payload is verified to its end.

    Raises E_TRUNCATED where bytes are missing, E_DIM where a whole plane or more follows the volume, since then the
    header's sizes or type are wrong (a shorter surplus is noted), and E_HEADER where anything follows although nothing may.
    """
    raw = payload.array(layout.num_bytes)
    sizes = [n for n in (*layout.geometry.shape, layout.channels) if n > 1]
    allowed = LARGEST_FOOTER if layout.footer else layout.num_bytes // max(sizes, default=1) - 1
    surplus = payload.finish(most=allowed)
    if surplus and layout.last:
        raise ReadError(
            "the header does not say where the voxels begin, and the length of the file does not show it",
            file=payload.path,
            code="E_HEADER",
            wanted=f"{layout.num_bytes} bytes after the header",
            got=f"{layout.num_bytes + surplus}",
            remedy="Export the scan again; vox_offset in its header must not be 0",
        )
    if surplus > allowed:
        raise GeometryError(
            "the file holds more voxels than its header describes",
            file=payload.path,
            code="E_DIM",
            wanted=f"{layout.num_bytes} bytes of voxels",
            got=f"{layout.num_bytes + surplus} or more",
            remedy="Export the file again; sizes or type in the header are wrong",
        )
    notes: tuple[str, ...] = (f"{surplus} bytes after the last voxel were ignored",) if surplus and not layout.footer else ()
    if payload.rubbish:
        notes += (f"{payload.rubbish} bytes after the compressed data were ignored",)
    numbers = raw.view(layout.dtype)
    if layout.interleaved and layout.channels > 1:
        return np.moveaxis(numbers.reshape(*layout.geometry.shape, layout.channels), -1, 0), notes
    return numbers.reshape(layout.channels, *layout.geometry.shape), notes


def to_image(numbers: np.ndarray, layout: Layout, *, path: Path, nonfinite: Nonfinite) -> tuple[np.ndarray, tuple[str, ...]]:
    """(C, Z, Y, X) float32 values and notes; the stored numbers themselves where they are that already.

    NaN and infinite voxels: E_NONFINITE with their count under "refuse"; under "replace" up to 0.1 % of a channel take
    the channel's smallest finite value, noted. Values beyond float32 count as infinite.
    """
    if layout.dtype.newbyteorder("=") == np.float32 and not layout.scaled:
        image = numbers if layout.dtype.isnative else numbers.byteswap(inplace=True).view(np.float32)
    else:
        image = np.empty(numbers.shape, dtype=np.float32)
        with np.errstate(over="ignore"):
            for channel, plane in np.ndindex(numbers.shape[:2]):
                image[channel, plane] = _scaled(numbers[channel, plane], layout)
    if layout.dtype.kind != "f" and not layout.scaled:
        return image, ()
    notes = tuple(note for channel in image if (note := _settle_nonfinite(channel, path=path, nonfinite=nonfinite)))
    return image, notes


def _scaled(plane: np.ndarray, layout: Layout) -> np.ndarray:
    return plane.astype(np.float64) * layout.slope + layout.intercept if layout.scaled else plane


def _settle_nonfinite(channel: np.ndarray, *, path: Path, nonfinite: Nonfinite) -> str | None:
    # The extremes of an array tell whether all of it is finite, without a mask as large as itself.
    with np.errstate(invalid="ignore"):
        if np.isfinite(channel.min()) and np.isfinite(channel.max()):
            return None
    bad = ~np.isfinite(channel)
    count = int(bad.sum())
    if nonfinite == "refuse" or count >= REPLACEABLE_SHARE * channel.size:
        first = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        raise ReadError(
            "voxels are NaN or infinite",
            file=path,
            code="E_NONFINITE",
            wanted="finite numbers" if nonfinite == "refuse" else f"less than {REPLACEABLE_SHARE:.1%} of them",
            got=f"{count} of {channel.size} voxels, the first at {_place(first)}",
            remedy="Replace them by a sensible value, for instance that of air, or leave the case out",
        )
    channel[bad] = channel[~bad].min()
    return f"NaN or infinite voxels took the smallest finite value: {count}"


def to_labels(numbers: np.ndarray, layout: Layout, *, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """(C, Z, Y, X) label values as int16, int32 where they do not fit, and notes.

    Floating-point labels up to 0.001 from an integer are rounded and noted; others raise E_LABEL.
    """
    if layout.dtype.kind in "iu" and not layout.scaled:
        if np.can_cast(layout.dtype, np.int16):
            return numbers.astype(np.int16, copy=False), ()
        low, high = int(numbers.min()), int(numbers.max())
        _check_range(low, high, path)
        return numbers.astype(_label_type(low, high)), ()
    if layout.dtype.kind == "f":
        for volume in numbers:
            _settle_nonfinite(volume, path=path, nonfinite="refuse")
    labels = np.empty(numbers.shape, dtype=np.int32)
    furthest = 0.0
    for channel, plane in np.ndindex(numbers.shape[:2]):
        values = _scaled(numbers[channel, plane], layout)
        _check_range(values.min(), values.max(), path)
        rounded = np.rint(values)
        furthest = max(furthest, float(np.abs(values - rounded).max()))
        if furthest > LABEL_TOLERANCE:
            raise _not_integers(values, rounded, plane, path)
        labels[channel, plane] = rounded
    kept = labels.astype(_label_type(int(labels.min()), int(labels.max())), copy=False)
    return kept, (f"labels up to {furthest:.2g} from an integer were rounded",) if furthest > 0 else ()


def _label_type(low: int, high: int) -> type[np.signedinteger]:
    return np.int16 if low >= -(2**15) and high < 2**15 else np.int32


def _check_range(low: float, high: float, path: Path) -> None:
    if low < -(2**31) or high >= 2**31:
        raise LabelError("label values are far outside any label table", file=path, wanted="0 to 65535", got=f"{low:g} to {high:g}")


def _not_integers(values: np.ndarray, rounded: np.ndarray, plane: int, path: Path) -> LabelError:
    far = np.abs(values - rounded) > LABEL_TOLERANCE
    y, x = (int(i) for i in np.unravel_index(int(far.argmax()), far.shape))
    return LabelError(
        "labels are not whole numbers",
        file=path,
        wanted=f"integers to within {LABEL_TOLERANCE}",
        got=f"{float(values[y, x]):g} at {_place((plane, y, x))}",
        remedy="Threshold or round the label map (nearest-neighbour interpolation keeps labels whole), or check that this is one",
    )


def _place(zyx: tuple[int, ...]) -> str:
    """A voxel the way viewers show it."""
    z, y, x = zyx
    return f"x={x} y={y} z={z}"
