"""Models of nnU-Net, datasets and saved probabilities made to harm."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "import_nnunet"))

import nnunet_folder
import torch
from crafted_models import saved
from crafting import DEEP, OUTSIDE, Crafted, Trap, Write, entry
from small_datasets import write_blobs

from autoseg3d import api
from autoseg3d.api.planning import Reading
from autoseg3d.errors import DatasetError
from autoseg3d.import_nnunet import import_nnunet
from autoseg3d.io.probabilities import open_probabilities
from autoseg3d.networks import build
from planners.plan import NetworkPlan, Stage


def use_foreign(path: Path) -> None:
    """Imports a model of nnU-Net."""
    import_nnunet(path, path.parent / "imported.a3d")


def use_dataset(path: Path) -> None:
    """Checks a dataset."""
    found = api.check(path, reading=Reading(workers=1))
    if found.faults:
        raise DatasetError("faults", found.faults, file=path)


def use_probabilities(path: Path) -> None:
    """Reads all classes of saved probabilities."""
    with open_probabilities(path) as probabilities:
        for values in probabilities.classes():
            values.sum()


def _foreign(spoil: Callable[[Path, Trap], Path | None], **changes: Any) -> Write:
    """A model folder of nnU-Net, spoilt; `changes` go to its configuration."""

    def write(folder: Path, trap: Trap) -> Path:
        stages = tuple(Stage(features=f, kernel=(3, 3, 3), stride=(s,) * 3, blocks=b) for f, s, b in ((4, 1, 2), (6, 2, 2), (8, 2, 1)))
        network = build(NetworkPlan(architecture="unet", stages=stages, decoder_blocks=(2, 1)), 1, 3)
        model = nnunet_folder.write_model(
            folder,
            plans_json=nnunet_folder.plans({"3d_fullres": nnunet_folder.configuration(**changes)}),
            name="3d_fullres",
            weights={"fold_0": nnunet_folder.nnunet_names(network.state_dict())},
        )
        return spoil(model, trap) or model

    return write


def _checkpoint(make: Callable[[bytes, Trap], bytes]) -> Write:
    def spoil(model: Path, trap: Trap) -> None:
        path = model / "fold_0" / "checkpoint_final.pth"
        path.write_bytes(make(path.read_bytes(), trap))

    return _foreign(spoil)


def _foreign_plans(change: Callable[[dict[str, Any]], object]) -> Write:
    def spoil(model: Path, trap: Trap) -> None:
        plans = json.loads((model / "plans.json").read_bytes())
        change(plans)
        (model / "plans.json").write_text(json.dumps(plans))

    return _foreign(spoil)


def _zipped(entries: Callable[[Path], Iterable[tuple[zipfile.ZipInfo, bytes]]]) -> Write:
    """The model in a zip, with further entries."""

    def spoil(model: Path, trap: Trap) -> Path:
        path = model.parent / "export.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(p for p in model.rglob("*") if p.is_file()):
                archive.write(file, file.relative_to(model.parent))
            for held_as, data in entries(model):
                archive.writestr(held_as, data)
        shutil.rmtree(model)
        return path

    return _foreign(spoil)


def _pickled_postprocessing(model: Path, trap: Trap) -> None:
    (model / "crossval_results_folds_0").mkdir()
    (model / "crossval_results_folds_0" / "postprocessing.pkl").write_bytes(pickle.dumps(trap))


def _huge_storage(data: bytes, trap: Trap) -> bytes:
    """A checkpoint that declares a tensor of four terabytes over a few bytes."""
    file = io.BytesIO()
    torch.save({"network_weights": {"a": torch.zeros(1).expand(10**12)}, "optimizer_state": {}}, file)
    return file.getvalue()


def _listed(case: str, path: str) -> Write:
    """A dataset whose own list of cases names a case, or a file."""

    def write(folder: Path, trap: Trap) -> Path:
        raw = write_blobs(folder / "raw", 5)
        document = json.loads((raw / "dataset.json").read_bytes())
        listed = {f"c{i:02d}": {"images": [f"imagesTr/c{i:02d}_0000.nii.gz"], "label": f"labelsTr/c{i:02d}.nii.gz"} for i in range(4)}
        listed[case] = {"images": [path], "label": "labelsTr/c04.nii.gz"}
        (raw / "dataset.json").write_text(json.dumps({**document, "dataset": listed}))
        return raw

    return write


def _import(name: str, write: Write, *, harmless: bool = False) -> Crafted:
    return Crafted(name, write, use_foreign, harmless)


def _dataset(name: str, write: Write) -> Crafted:
    return Crafted(name, write, use_dataset)


def _array(name: str, header: Callable[[Trap], str]) -> Crafted:
    """Saved probabilities whose array begins with this header, and goes on with a pickle."""

    def write(folder: Path, trap: Trap) -> Path:
        text = header(trap)
        with zipfile.ZipFile(folder / "case.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("probabilities.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + pickle.dumps(trap))
        return folder / "case.npz"

    return Crafted(name, write, use_probabilities)


FOREIGN = (
    _import("checkpoint: runs a program", _checkpoint(saved(lambda trap: {"network_weights": {"a": trap}}))),
    _import("checkpoint: old format, runs a program", _checkpoint(saved(lambda trap: {"network_weights": {"a": trap}}, old=True))),
    _import("checkpoint: plain pickle that runs a program", _checkpoint(lambda data, trap: pickle.dumps(trap))),
    _import("checkpoint: program beside good weights", _checkpoint(saved(lambda trap: {"network_weights": {}, "logging": trap}))),
    _import("checkpoint: tensor of four terabytes", _checkpoint(_huge_storage)),
    _import("checkpoint: cut in half", _checkpoint(lambda data, trap: data[: len(data) // 2])),
    _import("checkpoint: pickled postprocessing that runs a program", _foreign(_pickled_postprocessing), harmless=True),
    _import(
        "nnU-Net plan: function for a network",
        _foreign_plans(lambda p: p["configurations"]["3d_fullres"]["architecture"].update(network_class_name="os.system")),
    ),
    _import(
        "nnU-Net plan: inherits from itself", _foreign_plans(lambda p: p["configurations"]["3d_fullres"].update(inherits_from="3d_fullres"))
    ),
    _import(
        "nnU-Net plan: more features than memory",
        _foreign_plans(lambda p: p["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(features_per_stage=[10**9] * 3)),
    ),
    _import(
        "nnU-Net plan: stages without end",
        _foreign_plans(lambda p: p["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(n_stages=10**12, kernel_sizes=3)),
    ),
    _import("nnU-Net plan: deeply nested", _foreign(lambda model, trap: (model / "plans.json").write_bytes(DEEP) and None)),
    _import("nnU-Net zip: name that climbs out", _zipped(lambda model: [(entry("../../outside/plans.json"), b"{}")])),
    _import("nnU-Net zip: absolute name", _zipped(lambda model: [(entry(f"{OUTSIDE}/plans.json"), b"{}")])),
    _import("nnU-Net zip: link", _zipped(lambda model: [(entry(f"{model.name}/fold_1/checkpoint_final.pth", 0o120777), b"/etc/passwd")])),
    _import(
        "nnU-Net zip: bomb", _zipped(lambda model: [(entry("x/fold_1/checkpoint_final.pth", kind=zipfile.ZIP_DEFLATED), bytes(2**28))])
    ),
    _dataset("dataset: case that climbs out", _listed("../../outside/evil", "imagesTr/c04_0000.nii.gz")),
    _dataset("dataset: file that climbs out", _listed("c04", "../../../etc/passwd")),
    _dataset("dataset: absolute file", _listed("c04", "/etc/passwd")),
    _dataset("dataset: variable for a file", _listed("c04", "$HOME/secret.nii.gz")),
    _dataset("dataset: case named like an option", _listed("-rf /", "imagesTr/c04_0000.nii.gz")),
    _array("probabilities: pickled objects", lambda trap: "{'descr': '|O', 'fortran_order': False, 'shape': (1, 1, 1, 1)}\n"),
    _array("probabilities: more than memory", lambda trap: "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 99999, 99999, 99999)}\n"),
    _array("probabilities: code in the header", lambda trap: f"__import__('os').system('touch {trap.executed}')\n"),
)
