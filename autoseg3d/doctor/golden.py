"""The golden scan and the golden model: a prediction whose right answer is known without any training.

The model is a U-Net of two stages whose weights are set by hand. It looks for tissue brighter than its surroundings and
tells the two organs in it apart by nothing but the direction in which their intensities rise: towards the patient's right
in label 1, towards the left in label 2. A reader, a resampling or a writer that mirrors a scan swaps the two labels; one
that shifts it moves them; a processor or a library that computes something else changes their volumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autoseg3d.geometry import Flips, Geometry, turn
from autoseg3d.networks import build
from autoseg3d.package import add_fold, create_package
from planners.contract import Triple
from planners.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics, LabelObservation
from planners.labels import label_table
from planners.plan import Configuration, NetworkPlan, Plan, Stage

CONFIGURATION = "3d_fullres"
LABELS = label_table({"background": 0, "rising_to_the_right": 1, "rising_to_the_left": 2})
SHAPE = (24, 40, 48)
SPACING_MM = (2.0, 1.5, 1.5)
# Centres of the two organs in voxels of the (S, A, R) array, and their half axes; the second lies towards the right.
CENTRES = ((12, 20, 14), (12, 18, 33))
HALF_AXES = (7.0, 9.0, 9.0)

_PATCH = (16, 32, 32)
_STATISTICS = IntensityStatistics(mean=300, median=300, std=100, min=0, max=700, percentile_00_5=0, percentile_99_5=650)


@dataclass(frozen=True)
class Orientation:
    """A way to store the golden scan: `axes` and `flips` of its canonical array, see autoseg3d.geometry.turn."""

    name: str
    axes: Triple
    flips: Flips


ORIENTATIONS = (
    Orientation("as from DICOM, axial", (0, 1, 2), (False, True, True)),
    Orientation("canonical", (0, 1, 2), (False, False, False)),
    Orientation("sagittal", (2, 0, 1), (True, True, False)),
)


def golden_truth() -> np.ndarray:
    """The two organs: (Z, Y, X) uint8 in the canonical orientation (axes S, A, R)."""
    truth = np.zeros(SHAPE, np.uint8)
    for label, centre in enumerate(CENTRES, start=1):
        truth[_distance(centre) < 1] = label
    return truth


def golden_image() -> np.ndarray:
    """The scan: (Z, Y, X) float32, canonical; a dim body, two bright organs with opposite ramps, and seeded noise."""
    rng = np.random.default_rng(20261121)
    image = np.where(_distance((12, 20, 24), (11.0, 18.0, 22.0)) < 1, 100.0, 10.0)
    x = np.arange(SHAPE[2], dtype=float)
    for centre, sign in zip(CENTRES, (1, -1), strict=True):
        ramp = 450 + 20 * sign * (x - centre[2])
        image = np.where(_distance(centre) < 1, ramp, image)
    return (image + rng.normal(0, 2, SHAPE)).astype(np.float32)


def golden_case(orientation: Orientation) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """(image, truth, geometry) as they lie in a file of that orientation, in a patient who lies a little askew."""
    axes, flips = orientation.axes, orientation.flips
    geometry = Geometry.from_affine(SHAPE, _affine()).turned(axes, flips)
    return turn(golden_image(), axes, flips), turn(golden_truth(), axes, flips), geometry


def write_golden_package(folder: Path) -> None:
    """Writes the golden model, about 20 kB, as a model package into `folder`."""
    plan = _plan()
    create_package(folder, plan, _fingerprint())
    add_fold(folder, configuration=CONFIGURATION, fold="full", weights=_weights(plan))


def _affine() -> np.ndarray:
    """Voxels of SPACING_MM, turned by ten degrees about the patient's long axis, the origin somewhere odd."""
    cos, sin = np.cos(np.radians(10)), np.sin(np.radians(10))
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return np.column_stack((rotation * SPACING_MM[::-1], (-31.5, 17.25, 402.0)))


def _distance(centre: tuple[int, int, int], half_axes: tuple[float, float, float] = HALF_AXES) -> np.ndarray:
    """Distance from `centre` in half axes: below 1 inside the ellipsoid."""
    axes = np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij")
    scaled = np.stack([(axis - c) / a for axis, c, a in zip(axes, centre, half_axes, strict=True)])
    return np.asarray(np.linalg.norm(scaled, axis=0))


def _plan() -> Plan:
    stages = (
        Stage(features=4, kernel=(3, 3, 3), stride=(1, 1, 1), blocks=1),
        Stage(features=4, kernel=(3, 3, 3), stride=(1, 2, 2), blocks=1),
    )
    configuration = Configuration(
        spacing_mm=SPACING_MM,
        median_shape=SHAPE,
        patch_size=_PATCH,
        batch_size=2,
        network=NetworkPlan(architecture="unet", stages=stages, decoder_blocks=(1,)),
        normalization=("zscore",),
        use_mask_for_norm=(False,),
    )
    return Plan(
        planner="standard",
        dataset_name="Golden",
        orientation="canonical",
        axis_order=(0, 1, 2),
        mirror_axes=(0, 1),  # along axis 2 the two labels would be swapped
        channel_names=("image",),
        labels=LABELS,
        intensities=(_STATISTICS,),
        configurations={CONFIGURATION: configuration},
    )


def _fingerprint() -> Fingerprint:
    voxels = int((golden_truth() == 1).sum())
    seen = LabelObservation(voxels=voxels, volume_ml=voxels * float(np.prod(SPACING_MM)) / 1000, quantiles=((250, 450, 650),))
    case = CaseFingerprint(
        id="golden",
        shape=SHAPE,
        shape_after_crop=SHAPE,
        spacing_mm=SPACING_MM,
        orientation="RAS",
        relative_size_after_crop=1,
        labels={label.name: seen for label in LABELS.labels},
    )
    return Fingerprint(
        dataset_name="Golden",
        channel_names=("image",),
        labels=LABELS,
        num_training=1,
        cases=(case,),
        intensities=(_STATISTICS,),
        median_relative_size_after_crop=1,
    )


def _weights(plan: Plan) -> dict[str, torch.Tensor]:
    """Channel 0 carries the intensity, 1 its rise along axis 2, 2 its fall; the coarse stage is silent."""
    network = build(plan.configurations[CONFIGURATION].network, 1, LABELS.num_classes, seed=0)
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    for name, value in state.items():
        if name.endswith("norm.weight"):
            value.fill_(1.0)
    first, joined = state["encoder.stages.0.0.conv.weight"], state["decoder.stages.0.0.conv.weight"]
    # Averages over 3×3 voxels of a slice keep the noise out of the slope.
    first[0, 0, 1] = 1 / 9
    for channel, sign in ((1, 1.0), (2, -1.0)):
        first[channel, 0, 1, :, 2], first[channel, 0, 1, :, 0] = sign / 3, -sign / 3
    for channel in range(3):
        joined[channel, 4 + channel, 1, 1, 1] = 1.0
    head, bias = state["decoder.heads.0.weight"], state["decoder.heads.0.bias"]
    # Tissue must be bright, whichever way it rises: then the slope decides.
    for label, channel in ((1, 1), (2, 2)):
        head[label, 0], head[label, channel] = 4.0, 1.0
    bias[0] = 3.0
    return state
