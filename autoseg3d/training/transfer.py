"""Starting from another model: what of its weights fits is taken over, and what was and was not is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autoseg3d.errors import ModelError, UsageError
from autoseg3d.files import read_contract
from autoseg3d.networks import head_names
from autoseg3d.package import ModelPackage, open_package
from planners.contract import Contract
from planners.labels import LabelTable
from planners.plan import Plan

_SHOWN = 4


class Loaded(Contract):
    """What a network took over from a model; start.json in the folder of a fold.

    model, dataset, configuration, fold, weights_sha256   whose weights
    taken, total   numbers in those of the network's tensors that come from the model, wholly or in part, and in all
    input          how the first layer met other channels; empty where they are the same
    anew           tensors that begin as they would without the model
    unused         tensors of the model for which there was no place
    reasons        why, in words
    """

    model: str
    dataset: str
    configuration: str
    fold: str
    weights_sha256: str
    taken: int
    total: int
    input: tuple[str, ...] = ()
    anew: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The model in a few words, for cards and tables."""
        share = self.taken / self.total
        return f"{self.dataset} {self.configuration} fold {self.fold} ({self.weights_sha256[:12]}), {share:.0%} of the weights"

    def __str__(self) -> str:
        parts = [f"Starting from {self.source}", *self.input, *self.reasons]
        if self.anew:
            parts.append(f"new: {_listed(self.anew)}")
        if self.unused:
            parts.append(f"not used: {_listed(self.unused)}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Start:
    """A trained network of a model package, to start another one from."""

    package: ModelPackage
    configuration: str
    fold: str

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the file of its weights: the identity of this start."""
        return self.package.manifest.files[self.package.fold(self.configuration, self.fold).file].sha256

    def leak(self, plan: Plan, held_out: Sequence[str], fold: str) -> str | None:
        """What must be said where the model has learnt from cases that this fold holds out; None where it has not."""
        if self.package.plan.dataset_name != plan.dataset_name or fold == self.fold:
            return None
        known = {case.id for case in self.package.fingerprint.cases}
        if not (both := known & set(held_out)):
            return None
        return (
            f"The model to start from knows a dataset of the same name and {len(both)} of the {len(held_out)} cases held out here: "
            "if they are the same, the scores of this fold will flatter"
        )

    def adopt(self, network: nn.Module, plan: Plan, configuration: str) -> Loaded:
        """Copies into the network, in place, what fits it: tensors of the same name and shape.

        Input channels that differ are met in the first layer: a channel of the same name takes its weights, another the mean
        over the model's image channels. In the heads the background and labels of the same name keep their rows, and another
        label begins anew; without a common label all do. A decoder is taken over only where the model has as many stages.
        """
        weights = self.package.load_weights(self.configuration, self.fold)
        theirs = self.package.plan
        skipped, reasons = self._unfit(network, plan, configuration)
        inputs = _Inputs(_channels(theirs, self.configuration), _channels(plan, configuration))
        rows, heads = _Rows(theirs.labels, plan.labels), head_names(network)
        own = dict(network.state_dict())
        taken: dict[str, Tensor] = {}
        adapted = False
        for name, tensor in own.items():
            given = weights.get(name)
            if given is None or name.startswith(skipped):
                continue
            if name.startswith(heads):
                if rows.fit(given, tensor):
                    taken[name] = rows.adapted(given, tensor)
            elif not adapted and inputs.concern(given, tensor):
                taken[name], adapted = inputs.adapted(given, tensor), True
            elif given.shape == tensor.shape:
                taken[name] = given
        if not any(tensor.ndim == 5 and not name.startswith(heads) for name, tensor in taken.items()):
            raise _nothing_fits(self.package.location, own, weights)
        network.load_state_dict({**own, **taken})
        sizes = {name: tensor.numel() for name, tensor in own.items()}
        return Loaded(
            model=str(self.package.location),
            dataset=theirs.dataset_name,
            configuration=self.configuration,
            fold=self.fold,
            weights_sha256=self.weights_sha256,
            taken=sum(sizes[name] for name in taken),
            total=sum(sizes.values()),
            input=inputs.words() if adapted else (),
            anew=tuple(name for name in own if name not in taken),
            unused=tuple(name for name in weights if name not in taken),
            reasons=reasons,
        )

    def _unfit(self, network: nn.Module, plan: Plan, configuration: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Beginnings of names that are not taken over whatever their shapes, and why."""
        theirs, ours = self.package.plan.configurations[self.configuration].network, plan.configurations[configuration].network
        skipped, reasons = [], []
        if len(theirs.stages) != len(ours.stages):
            # Decoder stages count from the coarsest, so their names would meet at different resolutions.
            skipped.append("decoder.")
            reasons.append(f"the decoder begins anew, for the model has {len(theirs.stages)} stages and this network {len(ours.stages)}")
        heads, rows = head_names(network), _Rows(self.package.plan.labels, plan.labels)
        if not heads.startswith(tuple(skipped)):
            reasons += rows.words()
            skipped += [] if rows.meet else [heads]
        return tuple(skipped), tuple(reasons)


def find_start(path: Path, *, configuration: str, fold: str, dataset_name: str) -> Start:
    """The trained network of the model at `path` that suits a configuration and fold best.

    The configuration of the same name where it is trained. Of a model of the same dataset the same fold, which has not seen
    the cases held out either; of another one, the network that was trained on all cases; else the first.
    """
    package = open_package(path)
    if not package.configurations:
        raise ModelError("there is no trained fold to start from", code="E_MODEL_EMPTY", file=path, remedy="Train one first")
    name = configuration if configuration in package.configurations else package.configurations[0]
    folds = package.folds(name)
    wanted = (fold, "full") if package.plan.dataset_name == dataset_name else ("full",)
    return Start(package, name, next((known for known in wanted if known in folds), folds[0]))


def found_again(record: Path, weights_sha256: str, *, configuration: str, fold: str) -> Start:
    """The network that an earlier session started from, by its start.json. Raises ModelError where it is gone or changed."""
    loaded = read_contract(record, Loaded)
    start = find_start(Path(loaded.model), configuration=configuration, fold=fold, dataset_name=loaded.dataset)
    start = Start(start.package, loaded.configuration, loaded.fold)
    if start.weights_sha256 != weights_sha256:
        remedy = "Name the model that this fold began with by --from"
        raise ModelError(
            "the model to start from has changed", file=loaded.model, wanted=weights_sha256, got=start.weights_sha256, remedy=remedy
        )
    return start


def freeze_encoder(network: nn.Module) -> None:
    """Lets the encoder keep its weights. Raises UsageError for a network without one."""
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise UsageError("this architecture has no part called encoder", field="freeze", wanted="none", got="encoder")
    encoder.requires_grad_(False)


@dataclass(frozen=True)
class _Inputs:
    """The names of the input channels of a model and of the network to be trained."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]

    def concern(self, given: Tensor, tensor: Tensor) -> bool:
        """Whether two tensors are a first layer that differs in its channels."""
        if self.theirs == self.ours or given.ndim != 5 or tensor.ndim != 5:
            return False
        same = given.shape[0] == tensor.shape[0] and given.shape[2:] == tensor.shape[2:]
        return same and (given.shape[1], tensor.shape[1]) == (len(self.theirs), len(self.ours))

    def adapted(self, given: Tensor, tensor: Tensor) -> Tensor:
        """The first layer's weights for our channels; those of a stage before that the model lacks begin as they are."""
        adapted = tensor.detach().cpu().clone()
        images = [i for i, name in enumerate(self.theirs) if not name.startswith(_PREVIOUS)]
        for i, name in enumerate(self.ours):
            if name in self.theirs:
                adapted[:, i] = given[:, self.theirs.index(name)]
            elif not name.startswith(_PREVIOUS):
                adapted[:, i] = given[:, images].mean(dim=1)
        return adapted

    def words(self) -> tuple[str, ...]:
        """How each of our channels came to its weights."""
        found = []
        for name in self.ours:
            way = "from the channel of the same name" if name in self.theirs else f"from the mean over {_listed(self.theirs)}"
            found.append(f"input channel '{name}' {'begins anew' if name not in self.theirs and name.startswith(_PREVIOUS) else way}")
        return tuple(found)


@dataclass(frozen=True)
class _Rows:
    """The labels of a model and of the network to be trained, and what that means for the rows of their heads."""

    theirs: LabelTable
    ours: LabelTable

    @property
    def meet(self) -> bool:
        """Whether some label is known to the model, by its name, and both exclude each other or both overlap."""
        return self.theirs.has_regions == self.ours.has_regions and bool(self._common)

    def fit(self, given: Tensor, tensor: Tensor) -> bool:
        """Whether two tensors have one row per class and agree in all else."""
        rows = (self.theirs.num_classes, self.ours.num_classes)
        return (given.shape[0], tensor.shape[0]) == rows and given.shape[1:] == tensor.shape[1:]

    def adapted(self, given: Tensor, tensor: Tensor) -> Tensor:
        """Our rows: background and labels of the same name have theirs, others begin as they are.

        Not as background, which they were to the model: background's many voxels then drag them down with it at once, and in
        short runs such a label never comes (docs/explanation/transfer.md).
        """
        adapted, first = tensor.detach().cpu().clone(), 0 if self.ours.has_regions else 1
        if first:
            adapted[0] = given[0]
        known = _names(self.theirs)
        for row, name in enumerate(_names(self.ours), start=first):
            if name in known:
                adapted[row] = given[first + known.index(name)]
        return adapted

    def words(self) -> tuple[str, ...]:
        """What became of the heads; nothing where the labels are the same."""
        if self.meet and _names(self.theirs) == _names(self.ours):
            return ()
        known, names = ([label.name for label in table.labels] for table in (self.theirs, self.ours))
        if not self.meet:
            return (f"the heads begin anew, for the model segments {_listed(known)} and this network {_listed(names)}",)
        kept = [label.name for label in self.ours.labels if label.name.casefold() in self._common]
        new = [name for name in names if name not in kept]
        return (f"the heads keep {_listed(kept)}" + (f"; anew begins {_listed(new)}" if new else ""),)

    @property
    def _common(self) -> set[str]:
        return set(_names(self.theirs)) & set(_names(self.ours))


_PREVIOUS = "previous stage: "


def _names(labels: LabelTable) -> list[str]:
    """The names of the labels, in the order of the heads' rows; upper and lower case are the same."""
    return [label.name.casefold() for label in labels.labels]


def _channels(plan: Plan, configuration: str) -> tuple[str, ...]:
    """Names of a network's input channels, in lower case, as far as they are images."""
    images = tuple(name.casefold() for name in plan.channel_names)
    if plan.configurations[configuration].previous_stage is None:
        return images
    # A value that several regions share is known by all their names.
    named = (" and ".join(label.name for label in plan.labels.labels if value in label.values) for value in plan.labels.values)
    return images + tuple(_PREVIOUS + name for name in named)


def _nothing_fits(path: Path, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> ModelError:
    example = next((name for name in own if name in weights), None)
    differs = "no tensor has the same name" if example is None else f"{example}: {tuple(weights[example].shape)}"
    return ModelError(
        "nothing of this model fits the network",
        code="E_MODEL_WEIGHTS",
        file=path,
        wanted="the same architecture and widths" if example is None else f"{example}: {tuple(own[example].shape)}",
        got=differs,
        remedy="Plan with the model's architecture and base_features (autoseg3d info shows them), or train without --from",
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def follow(average: nn.Module | None, network: nn.Module) -> None:
    """Lets averaged weights begin where the network does."""
    if average is not None:
        with torch.no_grad():
            average.load_state_dict(network.state_dict())
