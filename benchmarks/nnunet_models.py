"""The nnU-Net side of peer_models.py; runs in nnU-Net's own environment.

Usage: python nnunet_models.py JOBS [go on after faults]
JOBS is a file with a list of {spec, model, patches, scans, out, before}. For each the network of model/plans.json is built with
nnU-Net's own code, fitted for the spec's number of steps to random patches of `patches` (npz: image, labels), and written as a
checkpoint_final.pth into each fold folder as nnU-Net does. Where `scans` is a folder, nnU-Net then predicts it, with probabilities,
into `out`/mirrored and `out`/plain; `before` is the `out` of a cascade's first stage.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.postprocessing.remove_connected_components import load_postprocess_save, remove_all_but_largest_component_from_segmentation
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def targets(labels: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    """Class indices, or one bool channel per region."""
    if spec["regions_class_order"] is None:
        return labels.astype(np.int64)
    entries = [value for name, value in spec["labels"].items() if name not in ("background", "ignore")]
    return np.stack([np.isin(labels, value) for value in entries])


def fit(network: torch.nn.Module, spec: dict[str, Any], image: np.ndarray, labels: np.ndarray, known: int, seed: int) -> None:
    """A few steps of Adam on random patches; normalised here in the one way that the synthetic scans need."""
    rng, patch = np.random.default_rng(seed), spec["patch"]
    size = [1, *patch] if len(patch) == 2 else patch
    size = [min(n, 64) for n in size]
    normal = (np.clip(image, -350, 600) - 40) / 120
    if spec["schemes"][0] != "CTNormalization":
        normal = (image - image.mean()) / image.std()
    target = targets(labels, spec)
    foreground = np.argwhere(labels > 0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(spec["steps"]):
        middle = foreground[rng.integers(len(foreground))]
        starts = [int(np.clip(m - n // 2, 0, d - n)) for m, n, d in zip(middle, size, labels.shape, strict=True)]
        box = tuple(slice(s, s + n) for s, n in zip(starts, size, strict=True))
        x = torch.from_numpy(np.repeat(normal[box][None], len(spec["channels"]), 0)[None].astype(np.float32))
        if spec["previous_stage"]:
            x = torch.cat([x, torch.stack([torch.from_numpy(labels[box] == k).float() for k in range(1, known + 1)])[None]], 1)
        y = torch.from_numpy(target[(..., *box)])[None]
        if len(patch) == 2:
            x, y = x.squeeze(2), y.squeeze(-3)
        logits = network(x)
        logits = logits[0] if isinstance(logits, (tuple, list)) else logits
        if spec["regions_class_order"] is None:
            loss = torch.nn.functional.cross_entropy(logits, y)
        else:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def build(job: dict[str, Any]) -> None:
    """Makes the checkpoints of one model folder."""
    spec, folder, patches = job["spec"], Path(job["model"]), np.load(job["patches"])
    description = json.loads((folder / "dataset.json").read_text())
    plans = PlansManager(str(folder / "plans.json"))
    configuration, manager = plans.get_configuration(spec["name"]), plans.get_label_manager(description)
    heads = manager.num_segmentation_heads
    channels = len(spec["channels"]) + (len(manager.foreground_labels) if spec["previous_stage"] else 0)
    for fold_number, fold in enumerate(spec["folds"]):
        torch.manual_seed(fold_number)
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            channels,
            heads,
            allow_init=True,
            deep_supervision=True,
        )
        fit(network, spec, patches["image"], patches["labels"], len(manager.foreground_labels), fold_number)
        checkpoint = {
            "network_weights": network.state_dict(),
            "optimizer_state": {},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.5)]},
            "_best_ema": np.float64(0.5),
            "current_epoch": 1000,
            "init_args": {"configuration": spec["name"], "fold": fold_number, "device": torch.device("cpu")},
            "trainer_name": spec["trainer"],
            "inference_allowed_mirroring_axes": None if spec["mirror_axes"] is None else tuple(spec["mirror_axes"]),
        }
        (folder / fold).mkdir()
        torch.save(checkpoint, folder / fold / "checkpoint_final.pth")


def predict(job: dict[str, Any]) -> None:
    """nnU-Net's own prediction of a folder of scans, in this process, with mirrored copies and without."""
    spec = job["spec"]
    folds = ["all" if fold == "fold_all" else int(fold.removeprefix("fold_")) for fold in spec["folds"]]
    for way in ("mirrored", "plain"):
        predictor = nnUNetPredictor(
            tile_step_size=0.5,
            use_gaussian=True,
            use_mirroring=way == "mirrored",
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        predictor.initialize_from_trained_model_folder(job["model"], folds, "checkpoint_final.pth")
        out, before = Path(job["out"]) / way, None if job["before"] is None else str(Path(job["before"]) / way)
        out.mkdir(parents=True, exist_ok=True)
        predictor.predict_from_files_sequential(job["scans"], str(out), True, True, before)
        functions = [remove_all_but_largest_component_from_segmentation] * len(spec["keep"])
        settings = [{"labels_or_regions": values} for values in spec["keep"]]
        for file in sorted(out.glob("*.nii.gz")) if functions else ():
            load_postprocess_save(str(file), str(file), SimpleITKIO(), functions, settings)


def prefixed(job: dict[str, Any]) -> None:
    """Gives the weights the names that compiled or distributed training leaves; nnU-Net itself does not load them so."""
    for file in Path(job["model"]).glob("fold_*/checkpoint_final.pth"):
        checkpoint = torch.load(file, weights_only=False)
        weights = {job["spec"]["prefix"] + name: tensor for name, tensor in checkpoint["network_weights"].items()}
        torch.save({**checkpoint, "network_weights": weights}, file)


def zipped(job: dict[str, Any]) -> None:
    """Exports the model with nnU-Net's own command, which asks for files that training leaves beside the weights."""
    spec, model = job["spec"], Path(job["model"])
    os.environ.update(nnUNet_results=str(model.parent.parent))
    statistics = json.loads((model / "plans.json").read_text())["foreground_intensity_properties_per_channel"]
    cases = {"spacings": [[1.5, 1.5, 1.5]] * 2, "shapes_after_crop": [[80, 80, 80]] * 2, "median_relative_size_after_cropping": 1.0}
    (model / "dataset_fingerprint.json").write_text(json.dumps({**cases, "foreground_intensity_properties_per_channel": statistics}))
    for fold in spec["folds"]:
        (model / fold / "validation").mkdir()
        (model / fold / "validation" / "summary.json").write_text("{}")
        (model / fold / "progress.png").write_bytes(b"")
    folds = tuple("all" if fold == "fold_all" else int(fold.removeprefix("fold_")) for fold in spec["folds"])
    export_pretrained_model(model.parent.name, str(model.parent.parent / "exported.zip"), (spec["name"],), spec["trainer"], folds=folds)


def main() -> None:
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        try:
            build(job)
            if job.get("scans"):
                predict(job)
            if job["spec"]["zipped"]:
                zipped(job)
            if job["spec"]["prefix"]:
                prefixed(job)
        except Exception as error:
            if len(sys.argv) < 3:
                raise
            sys.stdout.write(f"{job['model']}: {type(error).__name__}: {error}\n")


if __name__ == "__main__":
    main()
