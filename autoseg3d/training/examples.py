"""Example pictures: what the network makes of one case now, beside the truth, in three planes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg3d.case import Placement
from autoseg3d.files import replacing
from autoseg3d.geometry import Geometry
from autoseg3d.ops.labelling import paint_table, winners
from autoseg3d.pictures import Picture, overview
from autoseg3d.preprocessing import CaseStore
from autoseg3d.training.cascade import CascadeStore
from autoseg3d.training.engine import Engine
from planners.contract import Triple
from planners.plan import Plan

# Drawing may cost this share of the training time, and never happens more often than this many seconds.
_SHARE, _SECONDS = 0.01, 30.0
LATEST = "latest.png"


class Examples:
    """Draws one patch of one case, always the same, into FOLD/pictures; shown to the loop as an observer.

    The patch lies about the middle of the case's foreground. A whole case would tell more and can take an hour on a CPU; a patch
    takes one forward pass.
    """

    def __init__(self, folder: Path, store: CaseStore | CascadeStore, case_id: str, plan: Plan, configuration: str) -> None:
        self._folder, self._store, self._case, self._plan = folder, store, case_id, plan
        self._configuration = plan.configurations[configuration]
        self._next = time.monotonic() + _SECONDS

    def epoch(self, log: Sequence[Mapping[str, Any]], engine: Engine) -> None:
        """Draws where the last picture is long enough ago."""
        if time.monotonic() >= self._next:
            self.close(log, engine)

    def close(self, log: Sequence[Mapping[str, Any]], engine: Engine) -> None:
        """Draws now. Nothing where there is no epoch yet."""
        if not log:
            return
        begun = time.monotonic()
        record = log[-1]
        path = self._folder / f"attempt_{record['attempt']}_epoch_{record['epoch'] + 1:04d}.png"
        names = {label.paint: label.name for label in self._plan.labels.labels}
        overview(self.picture(engine, title=f"{self._case}, epoch {record['epoch'] + 1}"), path, names=names)
        with replacing(self._folder / LATEST) as temporary:
            shutil.copyfile(path, temporary)
        now = time.monotonic()
        self._next = now + max(_SECONDS, (now - begun) / _SHARE)

    def picture(self, engine: Engine, *, title: str = "") -> Picture:
        """The case's first channel, its labels and what the network says, on the patch's part of the working grid."""
        start, shape = self._box()
        image, truth = self._store.read(self._case, start, shape)
        table = self._plan.labels
        # Slices of a slicewise network are the samples of a batch.
        samples = image[None] if not self._configuration.slicewise else image.swapaxes(0, 1)[:, :, None]
        # Of a network that has come to grief every logit is NaN, and that shall be seen, not stop the run.
        logits = engine.logits(torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))).nan_to_num()
        codes = torch.stack([winners(one, regions=table.has_regions) for one in logits]).numpy()
        found = np.take(paint_table(table, np.dtype(np.uint16)), codes).reshape(shape)
        inside = tuple(slice(0, min(n, whole - first)) for n, whole, first in zip(shape, self._store.shape(self._case), start, strict=True))
        geometry = working_geometry(self._store.placement(self._case), start)
        cut = Geometry.from_affine(found[inside].shape, geometry.matrix)
        values = np.array((0, *table.values, 0), dtype=np.uint16)  # ignored voxels and those outside count as background
        known = np.where(truth < 0, 0, np.minimum(truth, len(values) - 1))
        return Picture(image[0][inside], cut, values[known][inside], found[inside], title)

    def _box(self) -> tuple[Triple, Triple]:
        """Where the patch lies; of a slicewise network as many slices as a batch has, at most those of the case."""
        whole, patch = self._store.shape(self._case), self._configuration.patch_size
        depth = min(whole[0], self._configuration.batch_size) if self._configuration.slicewise else patch[0]
        shape = (depth, patch[1], patch[2])
        voxels = [found for found in self._store.locations(self._case).values() if len(found)]
        middle = np.median(np.concatenate(voxels), axis=0) if voxels else np.array(whole) / 2
        z, y, x = (int(min(max(0, m - n // 2), max(0, w - n))) for m, n, w in zip(middle, shape, whole, strict=True))
        return (z, y, x), shape


def working_geometry(placement: Placement, start: Triple) -> Geometry:
    """The grid of a working array from voxel `start` on: where in the patient each of its voxels lies. Its shape is (1, 1, 1)."""
    turned = placement.native.turned(placement.axes, placement.flips).matrix
    factors = [whole / working for whole, working in zip(placement.cropped_shape, placement.working_shape, strict=True)]
    # Half-pixel centres: working voxel i lies at (i + 0.5) * factor - 0.5 of the crop.
    places = [c + (s + 0.5) * f - 0.5 for c, s, f in zip(placement.crop_start, start, factors, strict=True)]
    matrix = turned.copy()
    matrix[:3, :3] = turned[:3, :3] * factors[::-1]
    matrix[:3, 3] = turned[:3, :3] @ places[::-1] + turned[:3, 3]
    return Geometry.from_affine((1, 1, 1), matrix)
