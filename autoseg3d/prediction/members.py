"""The members of a prediction: configurations of one or several models, which must segment the same labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoseg3d.errors import UsageError
from autoseg3d.package import ModelPackage
from autoseg3d.prediction.options import PredictOptions
from autoseg3d.prediction.predictor import Predictor, choose_configuration, choose_folds, missing_folds
from autoseg3d.prediction.records import ModelRecord


@dataclass(frozen=True)
class Member:
    """One configuration of one model, and the folds of it that are fused."""

    package: ModelPackage
    configuration: str
    folds: tuple[str, ...]

    def load(self, options: PredictOptions) -> Predictor:
        """Its predictor. Raises ModelError."""
        return Predictor.from_package(
            self.package,
            self.configuration,
            self.folds,
            device=options.device,
            precision=options.precision,
            mirror=options.mirror,
            step=options.step,
            slab_limit_bytes=options.slab_limit_bytes,
            backend=options.backend,
            crop=options.crop,
        )

    def record(self) -> ModelRecord:
        """What the record of a case says of it."""
        weights = [self.package.fold(self.configuration, fold).file for fold in self.folds]
        return ModelRecord(
            sha256=self.package.sha256,
            dataset_name=self.package.plan.dataset_name,
            plan=self.package.plan.content_hash(),
            fingerprint=self.package.fingerprint.content_hash(),
            configuration=self.configuration,
            folds=self.folds,
            missing_folds=missing_folds(self.package, self.configuration, self.folds),
            weights={name: self.package.manifest.files[name].sha256 for name in weights},
        )


def choose_members(packages: Sequence[ModelPackage], options: PredictOptions) -> tuple[Member, ...]:
    """Every wanted configuration of every model.

    Raises ModelError for a configuration or fold that is not there, UsageError (E_ENSEMBLE) where models differ in labels or
    channels.
    """
    for other in packages[1:]:
        _check_alike(packages[0], other)
    members = []
    for package in packages:
        for wanted in options.configurations or _selected(package):
            name = choose_configuration(package, wanted)
            members.append(Member(package, name, choose_folds(package, name, options.folds)))
    return tuple(members)


def _selected(package: ModelPackage) -> tuple[str | None, ...]:
    """What `select` chose where all of it is trained, else (None,) for the default."""
    chosen = package.selection.configurations if package.selection is not None else ()
    return chosen if chosen and set(chosen) <= set(package.configurations) else (None,)


def _check_alike(first: ModelPackage, other: ModelPackage) -> None:
    """Averaging is only for models that give the same channels of output the same meaning, from the same channels of input."""
    for what, wanted, got in (
        ("labels", _described_labels(first), _described_labels(other)),
        ("channels", first.plan.channel_names, other.plan.channel_names),
    ):
        if wanted != got:
            raise UsageError(
                f"models with different {what} cannot be averaged",
                code="E_ENSEMBLE",
                file=other.location,
                field="model",
                wanted=", ".join(wanted),
                got=", ".join(got),
                remedy="Predict with each model into a folder of its own",
            )


def _described_labels(package: ModelPackage) -> tuple[str, ...]:
    table = package.plan.labels
    described = (f"{label.name} = {'+'.join(map(str, label.values))}" for label in table.labels)
    if not table.has_regions:
        return tuple(described)
    return tuple(f"{text} painted {label.paint}" for text, label in zip(described, table.labels, strict=True))
