"""The nnU-Net side of preprocessing_parity.py; runs in nnU-Net's own environment.

Usage: python nnunet_side.py DATASET_ID CONFIGURATION OUT [CASES]
The environment variables nnUNet_raw and nnUNet_preprocessed must be set. Writes OUT/<case>.npz (data, seg) for each case,
OUT/plans.json, OUT/fingerprint.json and OUT/report.json with CPU and wall seconds per case, CPU seconds of resampling
and the peak memory.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset, plan_experiment_dataset
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets


class TimedConfiguration:
    """nnU-Net's configuration manager with the CPU seconds spent in its resampling functions added up."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.seconds = inner, 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        return self.timed(value) if name in ("resampling_fn_data", "resampling_fn_seg") else value

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.process_time()
            result = function(*arguments, **options)
            self.seconds += time.process_time() - began
            return result

        return call


def main() -> None:
    dataset_id, configuration, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    limit = int(sys.argv[4]) if len(sys.argv) > 4 else None
    name = maybe_convert_to_dataset_name(dataset_id)
    began = time.perf_counter()
    extract_fingerprint_dataset(dataset_id, num_processes=2, check_dataset_integrity=False)
    fingerprint_seconds = time.perf_counter() - began
    plan_experiment_dataset(dataset_id)
    prepared, raw = Path(nnUNet_preprocessed) / name, Path(nnUNet_raw) / name
    plans_file = prepared / "nnUNetPlans.json"
    plans = PlansManager(str(plans_file))
    description = load_json(str(raw / "dataset.json"))
    files = get_filenames_of_train_images_and_targets(str(raw), description)
    out.mkdir(parents=True, exist_ok=True)
    (out / "plans.json").write_bytes(plans_file.read_bytes())
    (out / "fingerprint.json").write_bytes((prepared / "dataset_fingerprint.json").read_bytes())
    preprocessor, timed, report = DefaultPreprocessor(verbose=False), TimedConfiguration(plans.get_configuration(configuration)), {}
    for case in sorted(files)[:limit]:
        cpu, wall = time.process_time(), time.perf_counter()
        data, seg, _ = preprocessor.run_case(files[case]["images"], files[case]["label"], plans, timed, description)
        report[case] = [time.process_time() - cpu, time.perf_counter() - wall]
        np.savez(out / f"{case}.npz", data=data, seg=seg)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    times = {"fingerprint_seconds": fingerprint_seconds, "resampling_seconds": timed.seconds}
    (out / "report.json").write_text(json.dumps({"cases": report, "peak_bytes": peak, **times}))


if __name__ == "__main__":
    main()
