"""Network families: the width and depth of each stage by rule, and the work they mean, before any network is built.

The published shapes: plain U-Net of nnU-Net (Isensee et al. 2021), its residual-encoder U-Net (Isensee et al. 2024), and V-Net
(Milletari et al. 2016). The figures of work serve to compare plans in microseconds; the traced cost has the last word.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from planners.contract import Triple
from planners.plan import NetworkPlan, Stage
from planners.speed import filled
from planners.topology import Extent, Topology

Block = Literal["plain", "residual", "vnet"]


@dataclass(frozen=True)
class Layer:
    """One convolution: its weights, and its products for one patch as they are computed, with channels filled up."""

    weights: int
    computed: int


@dataclass(frozen=True)
class Family:
    """Networks of one architecture, told apart by their width.

    base      features of the finest stage; they double per stage up to `widest_3d` or `widest_2d` times the base
    encoder   convolutions (plain, vnet) or residual blocks per stage, finest first; the last number repeats
    decoder   convolutions per decoder stage, finest first; the last number repeats
    kernel    edge of the full kernels
    block     "plain": convolutions; "residual": a stem and residual blocks of two; "vnet": residual stages between
              strided convolutions, with decoder stages twice as wide
    """

    architecture: str
    block: Block
    base: int
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    kernel: int = 3
    widest_3d: int = 10
    widest_2d: int = 16

    def narrowed(self, share: float) -> Family:
        """The same family at a share of its width, features rounded to a multiple of four, at least four."""
        return self.of_width(max(4, round(self.base * share / 4) * 4))

    def of_width(self, base: int) -> Family:
        """The same family with `base` features at the finest stage."""
        return replace(self, base=base)

    def features(self, stages: int, dims: int) -> list[int]:
        """Features per stage, finest first."""
        widest = self.base * (self.widest_3d if dims == 3 else self.widest_2d)
        return [min(self.base * 2**stage, widest) for stage in range(stages)]

    def encoder_blocks(self, stages: int) -> list[int]:
        """Blocks per encoder stage, finest first."""
        return [self.encoder[min(stage, len(self.encoder) - 1)] for stage in range(stages)]

    def decoder_blocks(self, stages: int) -> list[int]:
        """Convolutions per decoder stage, finest first; one stage fewer than the encoder has."""
        return [self.decoder[min(stage, len(self.decoder) - 1)] for stage in range(stages - 1)]

    def feature_voxels(self, topology: Topology, heads: int) -> int:
        """Values that the convolutions of one patch put out, nnU-Net's measure of memory (its rule 7).

        Counted are the encoder's and decoder's convolutions, transposed ones and shortcuts that change the shape, and
        the finest head with `heads` channels.
        """
        widths, voxels = self.features(topology.stages, len(topology.patch)), topology.stage_voxels()
        total = heads * voxels[0]
        for stage, blocks in enumerate(self.encoder_blocks(topology.stages)):
            if self.block == "plain":
                maps = blocks
            elif self.block == "residual":
                maps = 2 * blocks + 1  # the stem at stage 0, then the shortcut of the first block
            else:
                maps = blocks + 1  # the stem, then the strided convolution
            total += maps * widths[stage] * voxels[stage]
        wider = 2 if self.block == "vnet" else 1
        for stage, blocks in enumerate(self.decoder_blocks(topology.stages)):
            total += (wider * blocks + 1) * widths[stage] * voxels[stage]
        return total

    def layers(self, topology: Topology, in_channels: int, num_classes: int) -> Iterator[Layer]:
        """Every convolution of the network with deep supervision."""
        yield from self._encoder_layers(topology, in_channels)
        widths, voxels = self.features(topology.stages, len(topology.patch)), topology.stage_voxels()
        wider = 2 if self.block == "vnet" else 1
        for stage, blocks in enumerate(self.decoder_blocks(topology.stages)):
            taps, here, out = math.prod(topology.kernels[stage]), widths[stage], wider * widths[stage]
            below = widths[stage + 1] * (wider if stage + 2 < topology.stages else 1)
            weights, computed = below * here * math.prod(topology.strides[stage + 1]), filled(below, here) * voxels[stage]
            yield Layer(weights, computed)
            yield from _convolution(taps, 2 * here, out, voxels[stage])
            for _ in range(blocks - 1):
                yield from _convolution(taps, out, out, voxels[stage])
            yield from _convolution(1, out, num_classes, voxels[stage])

    def _encoder_layers(self, topology: Topology, in_channels: int) -> Iterator[Layer]:
        widths, voxels = self.features(topology.stages, len(topology.patch)), topology.stage_voxels()
        taps = [math.prod(kernel) for kernel in topology.kernels]
        entered = in_channels
        if self.block != "plain":
            yield from _convolution(taps[0] if self.block == "residual" else 1, in_channels, widths[0], voxels[0])
            entered = widths[0]
        for stage, blocks in enumerate(self.encoder_blocks(topology.stages)):
            here = widths[stage]
            if stage and self.block == "vnet":
                yield from _convolution(math.prod(topology.strides[stage]), entered, here, voxels[stage])
                entered = here
            if self.block == "residual" and entered != here:
                yield from _convolution(1, entered, here, voxels[stage])
            yield from _convolution(taps[stage], entered, here, voxels[stage])
            for _ in range(blocks * (2 if self.block == "residual" else 1) - 1):
                yield from _convolution(taps[stage], here, here, voxels[stage])
            entered = here

    def parameters(self, topology: Topology, in_channels: int, num_classes: int) -> int:
        """Weights of all convolutions."""
        return _parameters(self, topology.strides, topology.kernels, in_channels, num_classes)

    def step_flops(self, topology: Topology, in_channels: int, num_classes: int) -> int:
        """Of a training step on one patch, as computed: the backward pass takes two products of the forward pass's size."""
        return 6 * sum(layer.computed for layer in self.layers(topology, in_channels, num_classes))

    def receptive_field(self, topology: Topology) -> Extent:
        """Input voxels along each axis that one voxel of the deepest stage sees: r0 = Σ (k_l − 1) Π s_i + 1.

        The sum runs over the encoder's convolutions l, the product over the strides before l (Araujo, Norris and Sim
        2019, Computing Receptive Fields of Convolutional Neural Networks).
        """
        field = []
        for axis in range(len(topology.patch)):
            seen, jump = 1, 1
            for kernel, stride in self._walk(topology, axis):
                seen += (kernel - 1) * jump
                jump *= stride
            field.append(seen)
        return tuple(field)

    def _walk(self, topology: Topology, axis: int) -> Iterator[tuple[int, int]]:
        """(kernel, stride) of the encoder's convolutions along one axis, in the order data meets them."""
        if self.block == "residual":
            yield topology.kernels[0][axis], 1
        for stage, blocks in enumerate(self.encoder_blocks(topology.stages)):
            kernel, stride = topology.kernels[stage][axis], topology.strides[stage][axis]
            convolutions = blocks * (2 if self.block == "residual" else 1)
            if self.block == "vnet":
                yield stride, stride
                stride = 1
            yield kernel, stride
            for _ in range(convolutions - 1):
                yield kernel, 1

    def network(self, topology: Topology) -> NetworkPlan:
        """The stage table; a topology of two axes is given a leading 1."""
        stages = zip(
            self.features(topology.stages, len(topology.patch)),
            topology.kernels,
            topology.strides,
            self.encoder_blocks(topology.stages),
            strict=True,
        )
        return NetworkPlan(
            architecture=self.architecture,
            stages=tuple(Stage(features=f, kernel=lift(k), stride=lift(s), blocks=b) for f, k, s, b in stages),
            decoder_blocks=tuple(self.decoder_blocks(topology.stages)),
        )


@lru_cache(maxsize=4096)
def _parameters(family: Family, strides: tuple[Extent, ...], kernels: tuple[Extent, ...], in_channels: int, num_classes: int) -> int:
    # Weights don't depend on the patch, which is all that changes between most calls.
    topology = Topology(patch=(1,) * len(strides[0]), strides=strides, kernels=kernels)
    return sum(layer.weights for layer in family.layers(topology, in_channels, num_classes))


def _convolution(taps: int, inputs: int, outputs: int, voxels: int) -> Iterator[Layer]:
    yield Layer(taps * inputs * outputs, taps * filled(inputs, outputs) * voxels)


def lift(extent: Extent) -> Triple:
    """A triple from two or three numbers: two get a leading 1, as a 2D network is a 3D one of depth 1."""
    lead = (1,) * (3 - len(extent))
    first, second, third = (*lead, *extent)
    return (first, second, third)


def convolutions_text(family: Family) -> str:
    """How a family's stages are made, for people."""
    counts = ", ".join(str(n) for n in family.encoder)
    kind = {"plain": "convolutions", "residual": "residual blocks", "vnet": "convolutions in residual stages"}[family.block]
    return f"{counts} (the last repeats) {kind} per stage down, {', '.join(str(n) for n in family.decoder)} convolutions up"


UNET = Family(architecture="unet", block="plain", base=32, encoder=(2,), decoder=(2,))
RESENC = Family(architecture="resenc", block="residual", base=32, encoder=(1, 3, 4, 6), decoder=(1,))
VNET = Family(architecture="vnet", block="vnet", base=16, encoder=(1, 2, 3), decoder=(1, 2, 3), kernel=5, widest_3d=16)
