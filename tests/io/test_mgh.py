"""FreeSurfer's MGH and MGZ as nibabel has them."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_making import turned_affine

from autoseg3d.errors import Autoseg3dError
from autoseg3d.io import read_channels, read_volume

AFFINE = turned_affine((5.0, 80.0, -170.0), (0.7, 0.9, 1.3), (-80.0, 20.0, 30.0))


@pytest.mark.parametrize("ending", ["mgh", "mgz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
def test_what_nibabel_writes(tmp_path: Path, ending: str, dtype: str) -> None:
    array = (np.arange(120).reshape(4, 5, 6) % 100).astype(dtype)
    nib.save(nib.MGHImage(array.T, AFFINE), tmp_path / f"a.{ending}")
    read = read_volume(tmp_path / f"a.{ending}")
    assert np.array_equal(read.array, array)
    assert np.allclose(read.geometry.matrix, AFFINE, atol=1e-4)
    assert read.notes == ()
    assert read.array.dtype.isnative


def test_faults(tmp_path: Path, volume: np.ndarray) -> None:
    def code(name: str) -> str:
        with pytest.raises(Autoseg3dError) as caught:
            read_volume(tmp_path / name)
        return caught.value.code

    nib.save(nib.MGHImage(volume.T, AFFINE), tmp_path / "a.mgh")
    data = (tmp_path / "a.mgh").read_bytes()
    (tmp_path / "cut.mgh").write_bytes(data[: 284 + volume.nbytes - 1])
    (tmp_path / "short.mgh").write_bytes(data[:200])
    (tmp_path / "unoriented.mgh").write_bytes(data[:28] + b"\0\0" + data[30:])
    (tmp_path / "other.mgh").write_bytes(b"\0\0\0\x02" + data[4:])
    nib.save(nib.MGHImage(np.stack([volume.T] * 2, axis=-1), AFFINE), tmp_path / "frames.mgz")
    assert [code(f"{n}.mgh") for n in ("cut", "short", "unoriented", "other")] == ["E_TRUNCATED", "E_HEADER", "E_NO_ORIENT", "E_FORMAT"]
    assert code("frames.mgz") == "E_DIM"
    assert np.array_equal(read_channels(tmp_path / "frames.mgz", 2).array[1], volume)
    packed = (tmp_path / "frames.mgz").read_bytes()
    (tmp_path / "cut.mgz").write_bytes(packed[:-3])
    with pytest.raises(Autoseg3dError, match="E_TRUNCATED"):
        read_channels(tmp_path / "cut.mgz", 2)
