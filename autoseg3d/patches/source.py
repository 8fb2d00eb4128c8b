"""PatchSource: the training and validation samples of one configuration, each a function of (seed, epoch, index)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch

from autoseg3d.augment import Drawn, apply, draw, read_box
from autoseg3d.augment.cascade import CascadeDrawn, apply_cascade, draw_cascade
from autoseg3d.augment.reference import ReferencePipeline
from autoseg3d.errors import UsageError
from autoseg3d.patches.positions import draw_centre, draw_start, first_forced, loader_crop, start_bounds
from planners.contract import Triple
from planners.plan import Configuration, Plan

Augmentation = Literal["torch", "batchgenerators"]


class CaseReader(Protocol):
    """Preprocessed cases. Arrays are in network-axis order; labels are value indices, -1 outside of the nonzero mask."""

    @property
    def ids(self) -> Sequence[str]:
        """The cases there are."""

    def shape(self, case_id: str) -> Triple:
        """(Z, Y, X) of a case."""

    def locations(self, case_id: str) -> Mapping[int, np.ndarray]:
        """Voxels (n, 3) int32 per foreground class, by the network's channel; -1: annotated voxels (ignore label)."""

    def read(self, case_id: str, start: Triple, shape: Triple) -> tuple[np.ndarray, np.ndarray]:
        """(C, *shape) float32 and (*shape) int16 from `start` on, 0 and -1 outside of the case."""


@dataclass(frozen=True)
class Reading:
    """A sample before augmentation.

    case_id       where it was read
    start         first voxel of the patch in the case
    image, labels what its augmentation needs: (C, *box) float32 and (*box) int16
    drawn         our transforms; the box is then that of `augment.read_box`
    seed          of the batchgenerators pipeline; the box is then nnU-Net's crop
    cascade       transforms of the previous stage's masks
    """

    case_id: str
    start: Triple
    image: torch.Tensor
    labels: torch.Tensor
    drawn: Drawn | None = None
    seed: int | None = None
    cascade: CascadeDrawn | None = None

    def to(self, device: torch.device | str) -> Reading:
        """The same sample with its tensors on another device, to be augmented there."""
        image, labels = (tensor.to(device, non_blocking=True) for tensor in (self.image, self.labels))
        return replace(self, image=image, labels=labels)


class PatchSource:
    """Draws patches from cases: cases uniformly with replacement, foreground oversampled, augmented where asked.

    Every random number of a sample comes from `numpy.random.default_rng((seed, epoch, index))`, so a sample is the same
    in whatever process and order it is made. Where the configuration has a previous stage, the last channels of the
    stored images, one per label value, are its one-hot labels.

    Args:
        store: the preprocessed cases.
        case_ids: the cases to draw from; their order is part of what makes a sample.
        plan: gives labels, mirror axes and the share of foreground samples.
        configuration: name of one of its configurations.
        augment: False gives validation samples: plain crops of the patch's size.
        seed: of the run; training and validation need different ones.
        augmentation: "batchgenerators" runs that library's transforms in place of ours.
        share: (rank, count): of every batch only each `count`-th sample from `rank` on, where several processes share it.

    Raises:
        UsageError: there is no case to draw from, a case is unknown, or the library asked for is not installed.
    """

    def __init__(
        self,
        store: CaseReader,
        case_ids: Sequence[str],
        plan: Plan,
        configuration: str,
        *,
        augment: bool,
        seed: int,
        augmentation: Augmentation = "torch",
        share: tuple[int, int] = (0, 1),
    ) -> None:
        if not case_ids:
            raise UsageError("no case to draw patches from", field="case_ids")
        if unknown := sorted(set(case_ids) - set(store.ids)):
            raise UsageError(f"unknown cases: {', '.join(unknown[:5])}", field="case_ids")
        self.store, self.case_ids, self.plan, self.seed = store, tuple(case_ids), plan, seed
        self.configuration: Configuration = plan.configurations[configuration]
        self.augments, self._share = augment, share
        self._crop = loader_crop(self.configuration) if augment else self.configuration.patch_size
        self._masks = len(plan.labels.values) if self.configuration.previous_stage else 0
        self._pipeline = self._reference_pipeline() if augment and augmentation == "batchgenerators" else None

    def sample(self, epoch: int, index: int, *, forced_foreground: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """One sample: image (C, *patch_size) float32 and labels (*patch_size) int16, value indices from 0 on.

        It is computed on one thread whatever torch's setting, so that it is the same to the bit in a worker and in the
        main process. Parallel work comes from several samples at once.
        """
        with _one_thread():
            return self.finish(self.read(epoch, index, forced_foreground=forced_foreground))

    def batch(self, epoch: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """This share of the batch of one step: images (B, C, *patch_size) and labels (B, *patch_size); see `sample`."""
        pairs = [self.sample(epoch, index, forced_foreground=forced) for index, forced in self.batch_indices(step)]
        return torch.stack([image for image, _ in pairs]), torch.stack([labels for _, labels in pairs])

    def batch_indices(self, step: int) -> tuple[tuple[int, bool], ...]:
        """(index, forced_foreground) of each sample in this share of a step's batch."""
        size = self.configuration.batch_size
        forced = first_forced(size, self.plan.training.foreground_fraction)
        rank, count = self._share
        return tuple((step * size + j, j >= forced) for j in range(rank, size, count))

    def read(self, epoch: int, index: int, *, forced_foreground: bool) -> Reading:
        """Draws a sample and reads the voxels it needs; `finish` augments it, on the device its tensors then lie on."""
        rng = np.random.default_rng((self.seed, epoch, index))
        case_id = self.case_ids[int(rng.integers(len(self.case_ids)))]
        start = self._draw_start(rng, case_id, forced_foreground)
        drawn, seed = self._draw_augmentation(rng)
        cascade = draw_cascade(rng, masks=self._masks) if self.augments and self._masks else None
        offset, shape = self._box(drawn)
        first = (start[0] + offset[0], start[1] + offset[1], start[2] + offset[2])
        image, labels = self.store.read(case_id, first, shape)
        return Reading(case_id, start, _tensor(image), _tensor(labels), drawn, seed, cascade)

    def finish(self, reading: Reading) -> tuple[torch.Tensor, torch.Tensor]:
        """Augments what `read` gave: image (C, *patch_size) float32, labels (*patch_size) int16 from 0 on."""
        image, labels = reading.image, reading.labels
        if reading.drawn is not None:
            image, labels = apply(image, labels, reading.drawn)
        elif reading.seed is not None and self._pipeline is not None:
            image, labels = self._pipeline(image, labels, reading.seed)
        else:
            return image, labels.clamp_min(0)
        for channel, masked in enumerate(self.configuration.use_mask_for_norm):
            if masked:
                image[channel].masked_fill_(labels < 0, 0)
        if reading.cascade is not None:
            apply_cascade(image[-self._masks :], reading.cascade)
        return image, labels.clamp_min_(0)

    def _reference_pipeline(self) -> ReferencePipeline:
        channels, patch = len(self.plan.channel_names), self.configuration.patch_size
        return ReferencePipeline(self.configuration.augmentation, channels=channels, patch_size=patch, mirror_axes=self.plan.mirror_axes)

    def _draw_start(self, rng: np.random.Generator, case_id: str, forced: bool) -> Triple:
        has_ignore = self.plan.labels.ignore is not None
        locations = self.store.locations(case_id) if forced or has_ignore else {}
        centre = draw_centre(rng, locations, forced=forced, has_ignore=has_ignore)
        patch = self.configuration.patch_size
        return draw_start(rng, start_bounds(self.store.shape(case_id), patch, self._crop), centre=centre, patch=patch)

    def _draw_augmentation(self, rng: np.random.Generator) -> tuple[Drawn | None, int | None]:
        """Our transforms, or a seed for the library's."""
        if not self.augments:
            return None, None
        if self._pipeline is not None:
            return None, int(rng.integers(2**32))
        channels, patch = len(self.plan.channel_names), self.configuration.patch_size
        return draw(self.configuration.augmentation, rng, channels=channels, patch_size=patch, mirror_axes=self.plan.mirror_axes), None

    def _box(self, drawn: Drawn | None) -> tuple[Triple, Triple]:
        """(offset from the patch's first voxel, shape) of what must be read."""
        if drawn is not None:
            return read_box(drawn)
        patch, crop = self.configuration.patch_size, self.configuration.patch_size if self._pipeline is None else self._crop
        z, y, x = (p // 2 - c // 2 for p, c in zip(patch, crop, strict=True))
        return (z, y, x), crop


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor that may be written to; shares memory with the array where that may be."""
    return torch.from_numpy(np.require(array, requirements=("C", "W")))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
