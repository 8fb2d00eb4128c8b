"""Measures of agreement between a predicted and a reference mask, of errors in lesions, and of calibration.

All functions are pure: boolean arrays (Z, Y, X) and a spacing in mm (z, y, x) go in, numbers come out.

Empty masks (the rules of Metrics Reloaded, Maier-Hein et al., Nature Methods 2024, and of nnU-Net for Dice). Undefined
is NaN, and a mean over cases leaves it out; the number of cases left is reported with the mean.

    measure              both empty   reference empty   prediction empty
    Dice, IoU, NSD       undefined    0                 0
    sensitivity          undefined    undefined         0
    precision            undefined    0                 undefined
    HD95, ASSD           undefined    infinite          infinite
    volume difference    0 mL         mL                mL
      in percent         undefined    undefined         -100 %
    lesion F1            undefined    0                 0

An infinite distance is kept as such: a median and a rank test count it as larger than any other, and means are taken
over the finite ones with the infinite ones counted beside them, so that a missed organ never improves a score unseen.

Surface distances follow the `surface-distance` library (Nikolov et al. 2018): the surface is made of the pieces that
marching cubes lays through each cube of 2×2×2 voxel centres, each weighted by its area in mm² and standing at the
middle of its cube. Libraries that take the border voxels of the mask instead (MONAI, MedPy, SimpleITK) measure between
voxel centres without weights: their distances differ by up to a voxel, their NSD by several percent.
"""

from autoseg3d.metrics.boxes import crop_to_union, grow_box, label_boxes, merge_boxes
from autoseg3d.metrics.calibration import CalibrationCounts, calibration_counts, top_label_counts
from autoseg3d.metrics.lesions import LesionMatch, match_lesions
from autoseg3d.metrics.overlap import (
    Counts,
    count_overlap,
    dice,
    iou,
    precision,
    sensitivity,
    volume_difference_ml,
    volume_difference_percent,
)
from autoseg3d.metrics.surface import SurfaceDistances, assd, hd95, nsd, surface_distances

__all__ = [
    "CalibrationCounts",
    "Counts",
    "LesionMatch",
    "SurfaceDistances",
    "assd",
    "calibration_counts",
    "count_overlap",
    "crop_to_union",
    "dice",
    "grow_box",
    "hd95",
    "iou",
    "label_boxes",
    "match_lesions",
    "merge_boxes",
    "nsd",
    "precision",
    "sensitivity",
    "surface_distances",
    "top_label_counts",
    "volume_difference_ml",
    "volume_difference_percent",
]
