"""The import itself: find the trained models, translate plan and weights, check them against the network, write a package."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from autoseg3d import files, networks
from autoseg3d.errors import ModelError
from autoseg3d.import_nnunet import plans as translation
from autoseg3d.import_nnunet.checkpoints import Checkpoint, read_checkpoint
from autoseg3d.import_nnunet.folders import TrainedModel, opened, trained_models
from autoseg3d.import_nnunet.postprocessing import read_postprocessing
from autoseg3d.package import add_fold, create_package, pack, set_postprocessing
from planners.fingerprint import Fingerprint
from planners.plan import Plan
from planners.postprocessing import PostprocessingTable


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
        plans, dataset = (files.read_json(first.folder / name) for name in ("plans.json", "dataset.json"))
        checkpoints = _read_all(models, progress)
        try:
            plan = translation.read_plan(plans, dataset, configurations=tuple(models), mirror_axes=_mirror_axes(checkpoints))
            fingerprint = translation.read_fingerprint(_optional_json(first.folder / "dataset_fingerprint.json"), plans, dataset)
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise ModelError(f"plans.json or dataset.json does not hold what nnU-Net writes: {error}", file=first.folder) from error
        postprocessing = _postprocessing(models, plan, note)
        fitting = {
            (name, fold): _fitting(plan, name, read.weights, file=models[name].checkpoints[fold])
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
        name = model.configuration or _name_from_checkpoint(model)
        if wanted is not None and name not in wanted:
            continue
        if name in named:
            got = f"{named[name].folder.name} and {model.folder.name}"
            raise ModelError(f"two models for {name}", file=source, got=got, remedy="Give the folder of the one you want")
        named[name] = model
    if missing := sorted(set(wanted or ()) - set(named)):
        raise ModelError("no such configuration in this model", file=source, wanted=missing, got=sorted(named))
    return named


def _name_from_checkpoint(model: TrainedModel) -> str:
    """The configuration of a folder whose name was changed: what the checkpoint says, or the only one in the plans."""
    said = read_checkpoint(next(iter(model.checkpoints.values()))).configuration
    listed = list(files.read_json(model.folder / "plans.json").get("configurations", {}))
    if said is None and len(listed) != 1:
        raise ModelError(
            "cannot tell which configuration this is", file=model.folder, wanted="a folder named Trainer__Plans__Configuration"
        )
    return said or str(listed[0])


def _read_all(models: dict[str, TrainedModel], progress: Callable[[str, int, int], None] | None) -> dict[tuple[str, str], Checkpoint]:
    paths = {(name, fold): path for name, model in models.items() for fold, path in model.checkpoints.items()}
    read = {}
    for done, (key, path) in enumerate(paths.items(), start=1):
        read[key] = read_checkpoint(path)
        if progress is not None:
            progress("reading checkpoints", done, len(paths))
    return read


def _mirror_axes(checkpoints: dict[tuple[str, str], Checkpoint]) -> tuple[int, ...]:
    """Network axes of a 3D network along which every checkpoint allows mirroring; a 2d one speaks of its own two axes."""
    allowed = {0, 1, 2}
    for (name, _), checkpoint in checkpoints.items():
        axes = checkpoint.mirror_axes or ()
        flat = name == "2d"
        allowed &= {axis + 1 for axis in axes} | {0} if flat else set(axes)
    only_flat = all(name == "2d" for name, _ in checkpoints)
    return tuple(sorted(allowed - {0} if only_flat else allowed))


def _fitting(plan: Plan, name: str, weights: dict[str, Tensor], *, file: Path) -> dict[str, Tensor]:
    """`weights`, checked name by name and shape by shape against the network the plan describes."""
    with torch.device("meta"):
        network = networks.build(plan.configurations[name].network, plan.in_channels(name), plan.labels.num_classes)
    wanted = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    got = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    if wanted != got:
        wrong = sorted(key for key in wanted.keys() | got.keys() if wanted.get(key) != got.get(key))
        shown: list[Any] = [f"{key} {got.get(key)}" for key in wrong[:5]]
        raise ModelError(
            "weights do not fit the network of the plan", code="E_WEIGHTS", file=file, wanted=[wanted.get(k) for k in wrong[:5]], got=shown
        )
    return weights


def _optional_json(path: Path) -> Any:
    return files.read_json(path) if path.is_file() else None
