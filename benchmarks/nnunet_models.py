"""The nnU-Net side of peer_models.py; runs in nnU-Net's own environment.

Usage: python nnunet_models.py JOBS [go on after faults]
JOBS is a file with a list of {spec, model, patches, scans, out, before}. For each the network of model/plans.json is built with
nnU-Net's own code, fitted for the spec's number of steps to random patches of `patches` (npz: image, labels), and written as a
checkpoint_final.pth into each fold folder as nnU-Net does. Where `scans` is a folder, nnU-Net then predicts it into `out`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def targets(labels: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    """Class indices, or one bool channel per region."""
    if spec["regions_class_order"] is None:
        return labels.astype(np.int64)
    entries = [value for name, value in spec["labels"].items() if name not in ("background", "ignore")]
    return np.stack([np.isin(labels, value) for value in entries])


def fit(network: torch.nn.Module, spec: dict[str, Any], image: np.ndarray, labels: np.ndarray, heads: int, seed: int) -> None:
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
            x = torch.cat([x, torch.stack([torch.from_numpy(labels[box] == k).float() for k in range(1, heads)])[None]], 1)
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
        fit(network, spec, patches["image"], patches["labels"], heads, fold_number)
        weights = {spec["prefix"] + name: tensor for name, tensor in network.state_dict().items()}
        checkpoint = {
            "network_weights": weights,
            "optimizer_state": {},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.5)]},
            "_best_ema": np.float64(0.5),
            "current_epoch": 1000,
            "init_args": {"configuration": spec["name"], "fold": fold_number, "device": torch.device("cpu")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": tuple(spec["mirror_axes"]),
        }
        (folder / fold).mkdir()
        torch.save(checkpoint, folder / fold / "checkpoint_final.pth")


def predict(job: dict[str, Any]) -> None:
    """nnU-Net's own prediction of a folder of scans, in this process, mirroring on."""
    spec = job["spec"]
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=True,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    folds = ["all" if fold == "fold_all" else int(fold.removeprefix("fold_")) for fold in spec["folds"]]
    predictor.initialize_from_trained_model_folder(job["model"], folds, "checkpoint_final.pth")
    Path(job["out"]).mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files_sequential(job["scans"], job["out"], False, True, job["before"])


def main() -> None:
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        try:
            build(job)
            if job.get("scans"):
                predict(job)
        except Exception as error:
            if len(sys.argv) < 3:
                raise
            sys.stdout.write(f"{job['model']}: {type(error).__name__}: {error}\n")


if __name__ == "__main__":
    main()
