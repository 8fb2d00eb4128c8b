"""Sliding windows: networks over a whole case, streamed, so that only a slab of logits is ever held.

The rule is nnU-Net's (Isensee et al., Nature Methods 2021): windows half a patch apart, each weighted by a Gaussian with
its centre on voxel patch // 2 and a sigma of an eighth of the patch; logits averaged over mirrored copies and over
networks. Three things are done in another way, with the same result up to rounding:

* Windows lie on a grid and the Gaussian is a product of three, so the sum of all weights at a voxel is a product of
  three one-dimensional sums. Each window is weighted by its share of that sum: what is added up *is* the weighted
  mean, and neither a volume of weights nor a division is needed.
* Everything is float32. nnU-Net holds weights and sums in float16, where the corners of the Gaussian vanish and are
  set to the smallest number there is; in float32 the smallest weight is 10·exp(-24) and nothing vanishes. Imported
  models alone are given weights as nnU-Net has them, for the sake of equal answers (slab.HalfPrecisionMean).
* Windows run along axis 0. Once no later window touches a row it is handed out, and its place is used again.

Where the networks have fewer features than logits, the features before the linear head are averaged in place of the
logits (mean of linear = linear of mean; the weights add up to one, so the bias stays what it is): memory no longer
grows with the number of classes.
"""

from autoseg3d.sliding_window.means import slab_channels, uses_features
from autoseg3d.sliding_window.streaming import PIECE_BYTES, Slab, predict_slabs, slab_bytes
from autoseg3d.sliding_window.windows import (
    OneHot,
    WindowOptions,
    axis_starts,
    gaussian_weights,
    mirror_combinations,
    window_starts,
)

__all__ = [
    "PIECE_BYTES",
    "OneHot",
    "Slab",
    "WindowOptions",
    "axis_starts",
    "gaussian_weights",
    "mirror_combinations",
    "predict_slabs",
    "slab_bytes",
    "slab_channels",
    "uses_features",
    "window_starts",
]
