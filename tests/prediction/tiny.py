"""Small plans, networks, scans and packages for the tests of prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import Tensor, nn

from autoseg3d.case import Case
from autoseg3d.geometry import Geometry
from autoseg3d.networks import build
from autoseg3d.package import add_fold, create_package
from planners.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics, LabelObservation
from planners.labels import LabelTable, label_table
from planners.plan import Configuration, NetworkPlan, Plan, Stage

LABELS = label_table({"background": 0, "left": 1, "right": 2})
REGIONS = label_table({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])


def network_plan(stride: tuple[int, int, int] = (2, 2, 2), kernel: tuple[int, int, int] = (3, 3, 3)) -> NetworkPlan:
    first = Stage(features=4, kernel=kernel, stride=(1, 1, 1), blocks=1)
    second = Stage(features=8, kernel=kernel, stride=stride, blocks=1)
    return NetworkPlan(architecture="unet", stages=(first, second), decoder_blocks=(1,))


def configuration(
    patch: tuple[int, int, int] = (8, 8, 8),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    normalization: str = "none",
    slicewise: bool = False,
    previous_stage: str | None = None,
) -> Configuration:
    flat = slicewise or patch[0] == 1
    return Configuration(
        spacing_mm=spacing,
        median_shape=(20, 20, 20),
        patch_size=patch,
        batch_size=2,
        network=network_plan((1, 2, 2), (1, 3, 3)) if flat else network_plan(),
        normalization=(normalization,),  # type: ignore[arg-type]
        use_mask_for_norm=(False,),
        slicewise=slicewise,
        previous_stage=previous_stage,
    )


def plan(
    configurations: dict[str, Configuration] | Configuration | None = None,
    *,
    labels: LabelTable = LABELS,
    orientation: str = "canonical",
    axis_order: tuple[int, int, int] = (0, 1, 2),
    mirror_axes: Sequence[int] = (0, 1, 2),
) -> Plan:
    chosen = configurations if isinstance(configurations, dict) else {"3d_fullres": configurations or configuration()}
    return Plan(
        planner="standard",
        dataset_name="Tiny",
        orientation=orientation,  # type: ignore[arg-type]
        axis_order=axis_order,
        mirror_axes=tuple(mirror_axes),
        channel_names=("image",),
        labels=labels,
        intensities=(STATISTICS,),
        configurations=chosen,
    )


STATISTICS = IntensityStatistics(mean=0, median=0, std=1, min=-5, max=5, percentile_00_5=-4, percentile_99_5=4)


def fingerprint(labels: LabelTable = LABELS, *, seen: bool = True, orientation: str = "RAS") -> Fingerprint:
    """Two training cases of 20×24×28 voxels of 1 and 1.5 mm; with labels of 1 mL inside the field of view where `seen`."""
    known = LabelObservation(voxels=1000, volume_ml=1.0, quantiles=((-1, 0, 1),))
    return Fingerprint(
        dataset_name="Tiny",
        channel_names=("image",),
        labels=labels,
        num_training=2,
        cases=tuple(
            CaseFingerprint(
                id=f"training_{i}",
                shape=(20, 24, 28),
                shape_after_crop=(20, 24, 28),
                spacing_mm=(spacing,) * 3,
                orientation=orientation,
                relative_size_after_crop=1,
                labels={label.name: known for label in labels.labels} if seen else {},
            )
            for i, spacing in enumerate((1.0, 1.5))
        ),
        intensities=(STATISTICS,),
        median_relative_size_after_crop=1,
    )


def random_network(plan: Plan, name: str = "3d_fullres", seed: int = 0) -> nn.Module:
    """A random network whose labels are mixed, not all background."""
    network = build(plan.configurations[name].network, plan.in_channels(name), plan.labels.num_classes, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network.eval()


def write_package(folder: Path, plan: Plan, folds: Sequence[str] = ("0", "1"), **scores: float) -> Path:
    """A package with random networks for every configuration of the plan."""
    create_package(folder, plan, fingerprint(plan.labels))
    for name in plan.configurations:
        for fold in folds:
            seed = 0 if fold == "full" else int(fold)
            add_fold(folder, configuration=name, fold=fold, weights=random_network(plan, name, seed).state_dict(), scores=scores)
    return folder


class PerVoxel(nn.Module):
    """Logits that are linear in each voxel's own intensity; meets the contract of a network."""

    stride_zyx = (1, 1, 1)

    def __init__(self, weights: Sequence[float], biases: Sequence[float]) -> None:
        super().__init__()
        self.head = nn.Conv3d(1, len(weights), 1)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor(weights).reshape(-1, 1, 1, 1, 1))
            self.head.bias.copy_(torch.tensor(biases))  # type: ignore[union-attr]

    def features(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.head(self.features(x)),)


class Slope(nn.Module):
    """Class 1 where intensities rise along axis 2 by more than 1 per voxel, class 2 where they fall by as much."""

    stride_zyx = (1, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 1, (1, 1, 3), padding=(0, 0, 1), padding_mode="replicate", bias=False)
        self.head = nn.Conv3d(1, 3, 1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([-0.5, 0.0, 0.5]).reshape(1, 1, 1, 1, 3))
            self.head.weight.copy_(torch.tensor([0.0, 1.0, -1.0]).reshape(3, 1, 1, 1, 1))
            self.head.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))  # type: ignore[union-attr]

    def features(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.head(self.features(x)),)


def case(image: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 1.0), id: str = "scan") -> Case:
    """A case of a (Z, Y, X) array stored as RAS with `spacing` (z, y, x)."""
    affine = np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    return Case(id, np.asarray(image, dtype=np.float32)[None], Geometry.from_affine(image.shape, affine))


def noise(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """A smooth random image without zeros."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn((1, 1, *(max(2, n // 3) for n in shape)), generator=generator)
    fine = nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0, 0] + 0.3 * torch.randn(shape, generator=generator)
    return fine.numpy() + np.float32(1e-3)


def write_scan(path: Path, image: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """A NIfTI file of a (Z, Y, X) array, written by nibabel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = nibabel.Nifti1Image(np.asarray(image, dtype=np.float32).transpose(2, 1, 0), np.eye(4) if affine is None else affine)
    volume.header["descrip"] = b"SECRET^PATIENT"
    nibabel.save(volume, path)
    return path
