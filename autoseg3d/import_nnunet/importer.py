"""The import itself: find the trained models, translate plan and weights, check them against the network, write a package."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from autoseg3d import files, networks
from autoseg3d.errors import ModelError
from autoseg3d.import_nnunet import plans as translation
from autoseg3d.import_nnunet.architecture import parts_left_out
from autoseg3d.import_nnunet.checkpoints import Checkpoint, read_checkpoint
from autoseg3d.import_nnunet.folders import TrainedModel, opened, trained_models
from autoseg3d.import_nnunet.postprocessing import read_postprocessing
from autoseg3d.package import add_fold, create_package, pack, set_postprocessing
from planners.fingerprint import Fingerprint
from planners.plan import Plan
from planners.postprocessing import PostprocessingTable

_DESCRIPTIONS = ("plans.json", "dataset.json")


def import_nnunet(
    source: Path,
    out: Path,
    *,
    configurations: Sequence[str] | None = None,
    checkpoint: str = "final",
    progress: Callable[[str, int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Path:
    """Translates a trained nnU-Net v2 model into a package that predicts the same labels.

    Args:
        source: a trained-model folder (plans.json, dataset.json, fold_*), a results folder above several of them, or a
            zip that nnU-Net exported.
        out: NAME.a3d for one file, any other name for a folder; must not exist yet.
        configurations: which to take; default all of them. A cascade needs its 3d_lowres.
        checkpoint: "final", "best" or "latest", where a fold has several.
        progress: told the checkpoints read.
        note: told what was left out that nnU-Net itself might have used.

    Returns:
        `out`.

    Raises:
        ModelError: naming file and field that is broken, unknown or would be predicted differently.
    """
    if out.exists():
        raise ModelError("there is something already", file=out, remedy="Choose another name, or remove it first")
    with opened(source) as root:
        models = _selected(trained_models(root, checkpoint=checkpoint), configurations, source)
        first = next(iter(models.values()))
        checkpoints = _read_all(models, progress)
        try:
            plans, dataset = _described(models)
            axes = _mirror_axes(checkpoints, {name for name in models if translation.is_flat(plans, name)})
            plan = translation.read_plan(plans, dataset, configurations=tuple(models), mirror_axes=axes)
            fingerprint = translation.read_fingerprint(_optional_json(first.folder / "dataset_fingerprint.json"), plans, dataset)
        except ModelError as error:
            error.file = error.file or first.folder / "plans.json"  # the translation knows fields, not files
            raise
        except (AttributeError, KeyError, TypeError, ValueError, ValidationError) as error:
            raise ModelError(f"plans.json or dataset.json does not hold what nnU-Net writes: {error}", file=first.folder) from error
        postprocessing = _postprocessing(models, plan, note)
        left_out = {name: parts_left_out(translation.inherited(plans, name)) for name in models}
        fitting = {
            (name, fold): _fitting(plan, name, read.weights, left_out=left_out[name], file=models[name].checkpoints[fold])
            for (name, fold), read in checkpoints.items()
        }
    if out.suffix != ".a3d":
        _write(out, plan, fingerprint, fitting, postprocessing)
        return out
    with tempfile.TemporaryDirectory(prefix="autoseg3d-import-") as folder:
        _write(Path(folder) / "model", plan, fingerprint, fitting, postprocessing)
        pack(Path(folder) / "model", out)
    return out


def _postprocessing(models: dict[str, TrainedModel], plan: Plan, note: Callable[[str], None] | None) -> PostprocessingTable:
    entries = []
    for name, model in models.items():
        steps, remark = read_postprocessing(model.folder, name, plan.labels)
        entries += [steps] if steps is not None else []
        if remark is not None and note is not None:
            note(f"{name}: {remark}")
    return PostprocessingTable(entries=tuple(entries))


def _write(
    folder: Path,
    plan: Plan,
    fingerprint: Fingerprint,
    weights: dict[tuple[str, str], dict[str, Tensor]],
    postprocessing: PostprocessingTable,
) -> None:
    create_package(folder, plan, fingerprint)
    for (name, fold), tensors in weights.items():
        add_fold(folder, configuration=name, fold=fold, weights=tensors, scores={})
    if postprocessing.entries:
        set_postprocessing(folder, postprocessing)


def _selected(found: Sequence[TrainedModel], wanted: Sequence[str] | None, source: Path) -> dict[str, TrainedModel]:
    """Configuration name to model. Raises ModelError where two trainers compete for a name, or a wanted one is missing."""
    named: dict[str, TrainedModel] = {}
    for model in found:
        listed = list(_table(model.folder / "plans.json").get("configurations", {}))
        said = model.configuration
        name = said if said is not None and said in listed else _name_from_checkpoint(model, listed)
        if wanted is not None and name not in wanted:
            continue
        if name in named:
            got = f"{named[name].folder.name} and {model.folder.name}"
            raise ModelError(f"two models for {name}", file=source, got=got, remedy="Give the folder of the one you want")
        named[name] = model
    if missing := sorted(set(wanted or ()) - set(named)):
        raise ModelError("no such configuration in this model", file=source, wanted=missing, got=sorted(named))
    return named


def _name_from_checkpoint(model: TrainedModel, listed: list[str]) -> str:
    """The configuration of a folder whose name was changed: what the checkpoint says, or the only one in the plans."""
    said = read_checkpoint(next(iter(model.checkpoints.values()))).configuration
    if said is None and len(listed) != 1:
        raise ModelError(
            "cannot tell which configuration this is", file=model.folder, wanted="a folder named Trainer__Plans__Configuration"
        )
    return said or listed[0]


def _read_all(models: dict[str, TrainedModel], progress: Callable[[str, int, int], None] | None) -> dict[tuple[str, str], Checkpoint]:
    paths = {(name, fold): path for name, model in models.items() for fold, path in model.checkpoints.items()}
    read = {}
    for done, ((name, fold), path) in enumerate(paths.items(), start=1):
        found = read[name, fold] = read_checkpoint(path)
        if found.configuration not in (None, name):
            raise ModelError(
                "the checkpoint was trained with another configuration than its folder is named for",
                file=path,
                field="init_args.configuration",
                wanted=name,
                got=found.configuration,
                remedy="Name the folder Trainer__Plans__Configuration after the configuration of its checkpoints",
            )
        if progress is not None:
            progress("reading checkpoints", done, len(paths))
    return read


def _described(models: dict[str, TrainedModel]) -> tuple[Any, Any]:
    """plans.json and dataset.json of all the models, as one. Raises ModelError where they do not belong together."""
    plans, datasets = ({name: _table(model.folder / file) for name, model in models.items()} for file in _DESCRIPTIONS)
    for name in models:
        stage = translation.previous_stage(plans[name], name)
        if stage is not None and stage not in models:
            raise ModelError(
                "a cascade cannot be predicted without its first stage",
                file=models[name].folder,
                field=f"{name}.previous_stage",
                wanted=f"the trained model of {stage} too",
                got=", ".join(models),
                remedy="Give the folder that holds both, as nnUNet_results/DatasetNNN_Name",
            )
    return translation.joined(plans, datasets)


def _mirror_axes(checkpoints: dict[tuple[str, str], Checkpoint], flat: set[str]) -> tuple[int, ...]:
    """Network axes along which mirroring is allowed; a flat configuration speaks of its own two axes.

    Raises ModelError where checkpoints disagree: a model has one answer, and no other would predict what nnU-Net does.
    """
    said = {key: {axis + 1 if key[0] in flat else axis for axis in checkpoint.mirror_axes or ()} for key, checkpoint in checkpoints.items()}
    allowed = max(said.values(), key=lambda axes: (0 in axes, len(axes)))
    for (name, fold), axes in said.items():
        if axes != (allowed - {0} if name in flat else allowed):
            raise ModelError(
                "checkpoints allow mirroring along different axes",
                field="inference_allowed_mirroring_axes",
                wanted="the same for all configurations and folds",
                got="; ".join(f"{name} fold {fold}: {sorted(axes) or 'none'}" for (name, fold), axes in said.items()),
                remedy="Give the folder of one configuration at a time, and predict with several --model",
            )
    return tuple(sorted(allowed))


def _fitting(plan: Plan, name: str, weights: dict[str, Tensor], *, left_out: dict[str, float], file: Path) -> dict[str, Tensor]:
    """`weights`, checked name by name and shape by shape against the network the plan describes; parts that theirs goes without are
    given the value that changes nothing.
    """
    network = networks.build_empty(plan.configurations[name].network, plan.in_channels(name), plan.labels.num_classes)
    wanted = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    absent = {key: left_out[_part(key)] for key in wanted.keys() - weights.keys() if _part(key) in left_out}
    weights = weights | {key: torch.full(wanted[key], value) for key, value in absent.items()}
    got = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    if wanted != got:
        wrong = sorted(key for key in wanted.keys() | got.keys() if wanted.get(key) != got.get(key))
        shown: list[Any] = [f"{key} {got.get(key)}" for key in wrong[:5]]
        raise ModelError(
            "weights do not fit the network of the plan", code="E_WEIGHTS", file=file, wanted=[wanted.get(k) for k in wrong[:5]], got=shown
        )
    return weights


def _part(key: str) -> str:
    """What a weight is in its layer: conv.bias, norm.weight, upsamplings.bias and so on."""
    parts = key.split(".")
    return f"{parts[1] if parts[1] == 'upsamplings' else parts[-2]}.{parts[-1]}"


def _table(path: Path) -> Mapping[str, Any]:
    found = files.read_json(path)
    if not isinstance(found, Mapping):
        raise ModelError("does not hold what nnU-Net writes", file=path, wanted="a table of names and values", got=type(found).__name__)
    return found


def _optional_json(path: Path) -> Any:
    return files.read_json(path) if path.is_file() else None
