"""Reading and writing scans, label maps and dataset folders. Here, and only here, x, y, z become Z, Y, X and LPS becomes RAS+."""

from autoseg3d.io.case_files import CaseFiles
from autoseg3d.io.dataset import Dataset, open_dataset
from autoseg3d.io.load import LoadedCase, load_case
from autoseg3d.io.nifti_forms import GeometryChoice
from autoseg3d.io.nifti_write import nifti_bytes, write_image, write_labels
from autoseg3d.io.scans import find_scans
from autoseg3d.io.volume import read_channels, read_geometry, read_volume
from autoseg3d.io.voxels import Volume

__all__ = [
    "CaseFiles",
    "Dataset",
    "GeometryChoice",
    "LoadedCase",
    "Volume",
    "find_scans",
    "load_case",
    "nifti_bytes",
    "open_dataset",
    "read_channels",
    "read_geometry",
    "read_volume",
    "write_image",
    "write_labels",
]
