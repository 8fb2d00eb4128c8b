"""NIfTI files whose bytes are laid by nibabel's header type, not by the code under test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

MakeNifti = Callable[..., Path]


def nifti_bytes(array: np.ndarray, affine: np.ndarray, *, version: int = 1, order: str = "<", **fields: Any) -> bytes:
    """A single-file NIfTI of a (…, Z, Y, X) array with both forms coded 1; `fields` overwrite header entries as they are."""
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    image = kind(np.zeros(array.shape[::-1], dtype=array.dtype), affine, dtype=array.dtype)
    header = image.header.as_byteswapped(order) if image.header.endianness != order else image.header
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm")
    header["vox_offset"] = 352 if version == 1 else 544
    header["scl_slope"], header["scl_inter"] = 1, 0
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + b"\0\0\0\0" + array.astype(array.dtype.newbyteorder(order)).tobytes()


def turned_affine(
    angles: tuple[float, float, float], spacing: tuple[float, float, float], origin: tuple[float, float, float]
) -> np.ndarray:
    """A RAS affine: rotations about x, y and z in degrees, then spacing and origin."""
    a, b, c = np.deg2rad(angles)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_y @ about_x @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine
