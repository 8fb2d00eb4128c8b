"""Fixtures of the readers' tests."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nifti_making import MakeNifti, nifti_bytes, turned_affine


@pytest.fixture
def make_nifti(tmp_path: Path) -> MakeNifti:
    """make_nifti(name, array, affine, **fields) writes the file, gzip-compressed where its name says so."""

    def make(name: str, array: np.ndarray, affine: np.ndarray | None = None, **fields: Any) -> Path:
        data = nifti_bytes(array, np.diag([-1.5, -1.5, 3.0, 1.0]) if affine is None else affine, **fields)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data, 1) if name.lower().endswith(".gz") else data)
        return path

    return make


@pytest.fixture
def volume() -> np.ndarray:
    """A (4, 5, 6) int16 array, every voxel different."""
    return np.arange(120, dtype=np.int16).reshape(4, 5, 6) * 7 - 300


@pytest.fixture
def oblique() -> np.ndarray:
    """A right-angled grid turned about all three axes."""
    return turned_affine((10.0, -20.0, 30.0), (0.8, 0.9, 2.5), (-91.0, 33.0, 12.5))
