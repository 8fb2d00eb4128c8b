"""NRRD and MetaImage files made by hand, and SimpleITK images to have them written by an independent writer."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def itk_image(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """A SimpleITK image of a (Z, Y, X) array on a right-angled RAS grid."""
    image = sitk.GetImageFromArray(array)
    lps = TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def nrrd(path: Path, array: np.ndarray, *, data: bytes | None = None, drop: tuple[str, ...] = (), **fields: str) -> Path:
    """An NRRD file made by hand; keys of `fields` have underscores for spaces."""
    header = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(str(n) for n in reversed(array.shape)),
        "space directions": "(2,0,0) (0,2,0) (0,0,3)",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(1,2,3)",
        **{key.replace("_", " "): value for key, value in fields.items()},
    }
    lines = ["NRRD0005", "# a comment", *(f"{k}: {v}" for k, v in header.items() if k not in drop), "key:=value: with colon", "", ""]
    path.write_bytes("\n".join(lines).encode() + (array.astype("<i2").tobytes() if data is None else data))
    return path


def meta(path: Path, array: np.ndarray, *, data: bytes | None = None, drop: tuple[str, ...] = (), **fields: str) -> Path:
    """A MetaImage file made by hand."""
    header = {
        "ObjectType": "Image",
        "NDims": str(array.ndim),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "1 2 3",
        "ElementSpacing": "2 2 3",
        "DimSize": " ".join(str(n) for n in reversed(array.shape)),
        "ElementType": "MET_SHORT",
        **fields,
    }
    header["ElementDataFile"] = fields.get("ElementDataFile", "LOCAL")
    text = "".join(f"{key} = {value}\n" for key, value in header.items() if key not in drop)
    path.write_bytes(text.encode() + (array.astype("<i2").tobytes() if data is None else data))
    return path
