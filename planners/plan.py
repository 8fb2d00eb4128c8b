"""Plan: every number a training run needs, each with the rule and the reason it was chosen by."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from planners.contract import Contract, FieldError, PositiveTriple, SpacingTriple, Triple
from planners.fingerprint import IntensityStatistics, Orientation
from planners.labels import LabelTable

Normalization = Literal["ct", "zscore", "none", "rescale_to_0_1", "rgb_to_0_1"]
Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]


class Stage(Contract):
    """One resolution of an encoder: entered by `stride`, then `blocks` convolutions or residual blocks.

    The triples are in network-axis order. `kernel` also serves the decoder stage at this resolution.
    """

    features: int = Field(ge=1, le=65536)
    kernel: PositiveTriple
    stride: PositiveTriple
    blocks: int = Field(ge=1, le=100)

    @model_validator(mode="after")
    def _check(self) -> Stage:
        if any(k % 2 == 0 for k in self.kernel):
            raise FieldError("kernel", f"kernel {self.kernel} must be odd along every axis, so that padding keeps the size")
        return self


class NetworkPlan(Contract):
    """What a network builder is told: the stage table, finest first, and the convolutions of each decoder stage.

    `decoder_blocks` is finest first too, one number per decoder stage, so one fewer than there are stages.
    """

    architecture: str = Field(min_length=1)
    stages: tuple[Stage, ...] = Field(min_length=2, max_length=32)
    decoder_blocks: tuple[Annotated[int, Field(ge=1, le=100)], ...]
    deep_supervision: bool = True

    @model_validator(mode="after")
    def _check(self) -> NetworkPlan:
        if len(self.decoder_blocks) != len(self.stages) - 1:
            needed = len(self.stages) - 1
            raise FieldError("decoder_blocks", f"{len(self.stages)} stages need {needed} decoder_blocks, got {len(self.decoder_blocks)}")
        if (first := self.stages[0].stride) != (1, 1, 1):
            raise FieldError(
                "stages.0.stride", f"the first stage works at the patch's own resolution: stride must be (1, 1, 1), got {first}"
            )
        return self

    @property
    def total_stride(self) -> Triple:
        """What a patch must be divisible by, per axis."""
        total = [1, 1, 1]
        for stage in self.stages:
            total = [t * s for t, s in zip(total, stage.stride, strict=True)]
        return (total[0], total[1], total[2])


class AugmentationPlan(Contract):
    """The random transforms of training, with nnU-Net's probabilities and ranges as defaults (its section A.6).

    `rotation_degrees` are the largest angles of turns about network axes 0, 1 and 2. `dummy_2d` turns and scales
    within planes of axes 1 and 2 only. Ranges of multipliers draw half of the time below one, half above.
    """

    dummy_2d: bool = False
    rotation_degrees: tuple[float, float, float] = (30.0, 30.0, 30.0)
    rotation_probability: Probability = 0.2
    scale: Range = (0.7, 1.4)
    scale_probability: Probability = 0.2
    noise_probability: Probability = 0.1
    noise_sigma: Range = (0.0, 0.1)
    blur_probability: Probability = 0.2
    blur_channel_probability: Probability = 0.5
    blur_sigma: Range = (0.5, 1.0)
    brightness_probability: Probability = 0.15
    brightness: Range = (0.75, 1.25)
    contrast_probability: Probability = 0.15
    contrast: Range = (0.75, 1.25)
    low_resolution_probability: Probability = 0.25
    low_resolution_channel_probability: Probability = 0.5
    low_resolution_zoom: Range = (0.5, 1.0)
    gamma_inverted_probability: Probability = 0.1
    gamma_probability: Probability = 0.3
    gamma: Range = (0.7, 1.5)

    @model_validator(mode="after")
    def _check(self) -> AugmentationPlan:
        for name in ("scale", "noise_sigma", "blur_sigma", "brightness", "contrast", "low_resolution_zoom", "gamma"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise FieldError(name, f"{name} must be a range of two numbers, 0 <= low <= high, got ({low}, {high})")
        return self


class TrainingPlan(Contract):
    """The recipe of a training run; one epoch is `iterations` steps, one step a batch of the configuration's size.

    The learning rate follows `schedule` over the whole run: "poly" is lr·(1 − t)^0.9 (t from 0 to 1), "cosine" a
    linear warm-up over `warmup` of the run and then half a cosine down to zero. "plateau" holds the rate after a short
    warm-up until more of it promises nothing, and then falls to zero; the run's length is only an upper bound then.
    `seconds` is a wall-clock budget of the training loop: where given, t is the share of that time that has passed and
    epochs is only an upper bound.

    `first_bias` is the bias that the heads begin with: 0, as nnU-Net's, or the log of how often each class stands in training
    patches. `start_from` is the SHA-256 of the model whose weights training starts from, `freeze` the part that keeps them.
    """

    epochs: int = Field(default=1000, ge=1)
    iterations: int = Field(default=250, ge=1)
    validation_iterations: int = Field(default=50, ge=0)
    seconds: float | None = Field(default=None, gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    weight_decay: float = Field(default=3e-5, ge=0)
    schedule: Literal["poly", "cosine", "plateau"] = "poly"
    warmup: float = Field(default=0.0, ge=0, lt=1)
    gradient_clip: float = Field(default=12.0, gt=0)
    ema_decay: float = Field(default=0.0, ge=0, lt=1, description="decay of averaged weights; 0 keeps the raw weights")
    foreground_fraction: Probability = 0.33
    first_bias: Literal["zero", "frequencies"] = "zero"
    seed: int = Field(default=0, ge=0)
    start_from: str | None = None
    freeze: Literal["none", "encoder"] = "none"


class Configuration(Contract):
    """One way to look at the data: a resolution, a patch, a batch and the network for them.

    `slicewise` marks the 2d configuration: its triples lead with 1 and axis 0 is never resampled. Where
    `previous_stage` is named, the network takes that configuration's labels as one-hot extra channels.
    """

    spacing_mm: SpacingTriple
    median_shape: tuple[float, float, float]
    patch_size: PositiveTriple
    batch_size: int = Field(ge=1)
    network: NetworkPlan
    normalization: tuple[Normalization, ...]
    use_mask_for_norm: tuple[bool, ...]
    batch_dice: bool = False
    slicewise: bool = False
    previous_stage: str | None = None
    augmentation: AugmentationPlan = AugmentationPlan()

    @model_validator(mode="after")
    def _check(self) -> Configuration:
        total = self.network.total_stride
        if any(p % t for p, t in zip(self.patch_size, total, strict=True)):
            raise FieldError("patch_size", f"patch_size {self.patch_size} must be divisible by the network's total stride {total}")
        if len(self.normalization) != len(self.use_mask_for_norm):
            counts = f"{len(self.normalization)} normalization entries but {len(self.use_mask_for_norm)} in use_mask_for_norm"
            raise FieldError("use_mask_for_norm", counts)
        if self.slicewise and (self.patch_size[0] != 1 or total[0] != 1):
            leads = f"a slicewise configuration leads with 1, got patch_size {self.patch_size} and total stride {total}"
            raise FieldError("patch_size", leads)
        if not all(0 < size < float("inf") for size in self.median_shape):
            raise FieldError("median_shape", f"median_shape must hold three positive numbers, got {self.median_shape}")
        return self


class Decision(Contract):
    """Why a number is what it is: the dotted field in the plan, the rule's name, and the reason in plain words."""

    field: str
    rule: str
    reason: str


class Plan(Contract):
    """All that preprocessing, training and prediction need to know about a dataset.

    orientation   "canonical": arrays are turned to (S, A, R) before anything else; "as-stored": they stay as filed
    axis_order    network axis i is axis axis_order[i] of the (z, y, x) array in that orientation
    mirror_axes   network axes along which flips are allowed, in augmentation and at prediction
    intensities   foreground statistics per channel, used by the "ct" normalisation
    window_weights  precision of the weights of sliding windows: "float16" in imported models, as nnU-Net has them
    """

    schema_version: Literal[1] = 1
    planner: str
    dataset_name: str
    orientation: Orientation
    axis_order: Triple
    mirror_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...]
    channel_names: tuple[str, ...] = Field(min_length=1)
    labels: LabelTable
    intensities: tuple[IntensityStatistics, ...]
    configurations: dict[str, Configuration] = Field(min_length=1)
    window_weights: Literal["float32", "float16"] = "float32"
    training: TrainingPlan = TrainingPlan()
    fingerprint_hash: str = ""
    decisions: tuple[Decision, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Plan:
        if sorted(self.axis_order) != [0, 1, 2]:
            raise FieldError("axis_order", f"axis_order must hold 0, 1 and 2 once each, got {self.axis_order}")
        if len(set(self.mirror_axes)) != len(self.mirror_axes):
            raise FieldError("mirror_axes", f"mirror_axes must differ, got {self.mirror_axes}")
        if len(self.intensities) != len(self.channel_names):
            counts = f"{len(self.channel_names)} channel_names but {len(self.intensities)} intensities"
            raise FieldError("intensities", counts)
        for name, configuration in self.configurations.items():
            self._check_configuration(name, configuration)
        return self

    def _check_configuration(self, name: str, configuration: Configuration) -> None:
        at = f"configurations.{name}"
        if len(configuration.normalization) != len(self.channel_names):
            needs = f"{name}.normalization needs {len(self.channel_names)} entries, one per channel"
            raise FieldError(f"{at}.normalization", needs)
        previous = configuration.previous_stage
        if previous is None:
            return
        if previous not in self.configurations:
            missing = f"{name}.previous_stage names '{previous}', which is not a configuration of this plan"
            raise FieldError(f"{at}.previous_stage", missing)
        if self.configurations[previous].previous_stage is not None:
            chained = f"{name}.previous_stage names '{previous}', which has a previous stage itself; cascades have two stages"
            raise FieldError(f"{at}.previous_stage", chained)

    def configuration(self, name: str | None = None) -> tuple[str, Configuration]:
        """The named configuration, or the default one: 3d_fullres, else 2d, else the first. Raises KeyError."""
        if name is None:
            name = next((n for n in ("3d_fullres", "2d") if n in self.configurations), next(iter(self.configurations)))
        return name, self.configurations[name]

    def in_channels(self, name: str) -> int:
        """Input channels of a configuration's network: images, and one-hot label values of the previous stage."""
        extra = len(self.labels.values) if self.configurations[name].previous_stage else 0
        return len(self.channel_names) + extra
