"""The nnU-Net side of training_step.py; runs in nnU-Net's own environment.

Usage: python training_step_nnunet.py DATASET_ID CONFIGURATION STEPS WARM_UP
The environment variables nnUNet_raw, nnUNet_preprocessed and nnUNet_results must be set and the dataset preprocessed. Trains with
nnU-Net's own trainer: its loaders with their worker processes and its train_step, as `run_training` calls them. Waits for a line on
its standard input before each round of STEPS steps and prints the round's seconds and samples as JSON; ends at the end of input.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name


def main() -> None:
    dataset, configuration, steps, warm_up = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    out = sys.stdout
    sys.stdout = sys.stderr  # the trainer talks
    folder = Path(nnUNet_preprocessed) / maybe_convert_to_dataset_name(dataset)
    description, plans = load_json(str(folder / "dataset.json")), load_json(str(folder / "nnUNetPlans.json"))
    plans["continue_training"] = False  # the entry point of its command line puts it there
    trainer = nnUNetTrainer(plans, configuration, 0, description, device=torch.device("cpu"))
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()

    def train(count: int) -> None:
        for _ in range(count):
            trainer.train_step(next(trainer.dataloader_train))

    train(warm_up)
    print(json.dumps({"ready": True, "batch": trainer.batch_size}), file=out, flush=True)
    for _ in sys.stdin:
        began, cpu = time.perf_counter(), time.process_time()
        train(steps)
        seconds = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**seconds, "samples": steps * trainer.batch_size, "peak_bytes": peak}), file=out, flush=True)
    os._exit(0)  # its workers would be waited for


if __name__ == "__main__":
    main()
