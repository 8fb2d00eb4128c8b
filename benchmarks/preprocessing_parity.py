"""Our preprocessing and fingerprint beside nnU-Net's, case by case, on the same files with nnU-Net's own plan.

Usage: python benchmarks/preprocessing_parity.py NNUNET_PYTHON DATASET [DATASET ...] [--configuration NAME] [--cases N]

NNUNET_PYTHON  the interpreter of an environment in which nnunetv2 is installed
DATASET        a dataset folder in nnU-Net's raw layout (its name need not have a number)

Prints for each dataset: the largest image difference in standard deviations of the case and the number of differing
label voxels; CPU seconds per case of both sides (reading included, one process, one thread); and, where all cases are
compared, both fingerprints, and races of whole commands, start-up included, in turn, medians of three: of
`nnUNetv2_extract_fingerprint` against `autoseg3d check`, and of `nnUNetv2_preprocess` against `prepare`.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from autoseg3d.fingerprinting import survey
from autoseg3d.import_nnunet.plans import read_plan
from autoseg3d.io.dataset import open_dataset
from autoseg3d.io.load import load_case
from autoseg3d.ops import resampling
from autoseg3d.preprocessing import prepare, preprocess, working_case
from planners.plan import Plan

_ID = 901
_PROCESSES = 2
# A process begins with the peak memory of the one that starts it: this one, which is small, stands in between.
_LAUNCHER = "import os, subprocess, sys; p = subprocess.Popen(sys.argv[1:]); s, u = os.wait4(p.pid, 0)[1:]; " + (
    "print(os.waitstatus_to_exitcode(s), u.ru_utime + u.ru_stime, u.ru_maxrss * 1024, file=sys.stderr)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nnunet_python", type=Path)
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--cases", type=int, default=None, help="only the first N cases")
    parser.add_argument("--work", type=Path, default=None, help="folder for both sides' files; a temporary one by default")
    parser.add_argument("--prepare-into", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=3, help="races of whole commands; 0 for none")
    parser.add_argument("--races-only", action="store_true", help="leave the comparison case by case out")
    arguments = parser.parse_args()
    if arguments.prepare_into is not None:
        prepare_all(arguments.datasets[0], arguments.configuration, arguments.prepare_into)
        return
    for dataset in arguments.datasets:
        with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
            theirs = NnunetSide(arguments.nnunet_python, dataset, Path(folder), arguments.configuration)
            theirs.run(1 if arguments.races_only else arguments.cases)
            print(f"{dataset.name} {arguments.configuration}")
            if not arguments.races_only:
                compare(dataset, theirs.out, arguments.configuration)
            if arguments.cases is None:
                compare_fingerprints(dataset, theirs)
                if arguments.repeats:
                    compare_whole_runs(dataset, theirs, arguments.repeats)


class NnunetSide:
    """nnU-Net's runs on one dataset, in a folder of their own."""

    def __init__(self, python: Path, dataset: Path, folder: Path, configuration: str) -> None:
        self.python, self.folder, self.out, self.configuration = python, folder, folder / "out", configuration
        raw = folder / "raw"
        raw.mkdir()
        (raw / f"Dataset{_ID}_Compared").symlink_to(dataset.resolve(), target_is_directory=True)
        places = {"nnUNet_raw": raw, "nnUNet_preprocessed": folder / "prepared", "nnUNet_results": folder / "results"}
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.environment = {**os.environ, **{k: str(v) for k, v in places.items()}, **single}

    def run(self, cases: int | None) -> None:
        """Fingerprint, plan, and every case preprocessed in one process by nnunet_side.py."""
        script = Path(__file__).with_name("nnunet_side.py")
        command = [str(self.python), str(script), str(_ID), self.configuration, str(self.out), *([] if cases is None else [str(cases)])]
        subprocess.run(command, env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def command(self, name: str, *options: str) -> list[str]:
        """One of nnU-Net's commands on the dataset, as a user would run it."""
        return [str(self.python.with_name(name)), "-d", str(_ID), "-np", str(_PROCESSES), *options]


def nnunet_plan(dataset: Path, theirs: Path, configuration: str) -> Plan:
    """nnU-Net's plan as ours."""
    description = json.loads((dataset / "dataset.json").read_text())
    plans = json.loads((theirs / "plans.json").read_text())
    return read_plan(plans, description, configurations=[configuration], mirror_axes=(1, 2) if configuration == "2d" else (0, 1, 2))


def compare(dataset: Path, theirs: Path, configuration: str) -> None:
    """Preprocesses the same cases and prints the differences and the times."""
    opened, plan = open_dataset(dataset), nnunet_plan(dataset, theirs, configuration)
    report = json.loads((theirs / "report.json").read_text())
    ours: list[float] = []
    in_resampling = time_resampling()
    worst_image, equal, voxels, shapes = 0.0, 0, 0, 0
    for files in opened.cases:
        if files.id not in report["cases"]:
            continue
        began = time.process_time()
        working = preprocess(load_case(files, labels=opened.labels).case, plan, configuration)
        ours.append(time.process_time() - began)
        with np.load(theirs / f"{files.id}.npz") as stored:
            data, seg = stored["data"], stored["seg"][0]
        assert working.labels is not None
        if working.image.shape != data.shape:
            print(f"  {files.id}: shape {working.image.shape}, nnU-Net {data.shape}")
            continue
        shapes += 1
        difference = np.abs(working.image - data).max() / max(float(data.std()), 1e-8)
        same = int(np.count_nonzero(working.labels == seg))
        if difference > 1e-3 or same < 0.9999 * seg.size:
            print(f"  {files.id}: image differs by {difference:.2e} std, {seg.size - same} label voxels of {seg.size}")
        worst_image, equal, voxels = max(worst_image, float(difference)), equal + same, voxels + seg.size
    cpu = np.array([seconds for seconds, _ in report["cases"].values()])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"  {shapes} of {len(cpu)} cases of equal shape")
    print(f"  image differs by at most {worst_image:.2e} standard deviations; {voxels - equal} of {voxels} label voxels differ")
    print(f"  CPU seconds per case, median: nnU-Net {np.median(cpu):.3f}, ours {np.median(ours):.3f}", end="")
    print(f", {np.median(cpu) / np.median(ours):.1f} times faster; in all {cpu.sum() / sum(ours):.1f} times")
    if sum(in_resampling) > 0:
        theirs_seconds, seconds = report["resampling_seconds"] / len(cpu), sum(in_resampling) / len(cpu)
        print(f"  resampling alone: nnU-Net {theirs_seconds:.3f}, ours {seconds:.4f}, {theirs_seconds / seconds:.1f} times faster")
    print(f"  peak memory of the process: nnU-Net {report['peak_bytes'] / 2**20:.0f} MiB, ours {peak / 2**20:.0f} MiB")


def time_resampling() -> list[float]:
    """A list that from now on takes the CPU seconds of every call of our two resampling functions in `preprocess`."""
    seconds: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.process_time()
            result = function(*arguments, **options)
            seconds.append(time.process_time() - began)
            return result

        return call

    working_case.resize_image, working_case.resize_labels = timed(resampling.resize_image), timed(resampling.resize_labels)
    return seconds


def compare_fingerprints(dataset: Path, theirs: NnunetSide) -> None:
    """Prints the differences of both fingerprints, intensities as shares of the range between the outer percentiles."""
    found = survey(open_dataset(dataset), workers=_PROCESSES).fingerprint
    assert found is not None
    wanted = json.loads((theirs.out / "fingerprint.json").read_text())
    equal = np.array_equal(found.shapes(), wanted["shapes_after_crop"]) and np.allclose(found.spacings(), wanted["spacings"], rtol=1e-6)
    print(f"  fingerprint: shapes and spacings {'equal' if equal else 'DIFFER'}")
    for channel, statistics in enumerate(found.intensities):
        reference = wanted["foreground_intensity_properties_per_channel"][str(channel)]
        span = reference["percentile_99_5"] - reference["percentile_00_5"]
        gaps = {name: abs(getattr(statistics, name) - reference[name]) / span for name in type(statistics).model_fields}
        print(f"    channel {channel}: " + ", ".join(f"{name} {gap:.1e}" for name, gap in gaps.items()))


def compare_whole_runs(dataset: Path, theirs: NnunetSide, repeats: int) -> None:
    """Races both commands of each step from start to end, each in a process of its own, nothing cached, in turn."""
    ours = [sys.executable, __file__, str(theirs.out), str(dataset), "--configuration", theirs.configuration]
    scratch = theirs.folder / "scratch"
    check = [sys.executable, "-m", "autoseg3d", "check", str(dataset), "--workers", str(_PROCESSES)]
    race("fingerprint", theirs.command("nnUNetv2_extract_fingerprint", "--clean"), check, theirs.environment, scratch, repeats)
    race(
        "preprocessing",
        theirs.command("nnUNetv2_preprocess", "-c", theirs.configuration),
        [*ours, "--prepare-into", str(scratch)],
        theirs.environment,
        scratch,
        repeats,
    )


def race(what: str, theirs: list[str], ours: list[str], environment: dict[str, str], scratch: Path, repeats: int) -> None:
    """Runs two commands in turn, `repeats` times, and prints medians of wall and CPU seconds and of peak memory, with ratios."""
    runs: dict[str, list[tuple[float, float, float]]] = {"nnU-Net": [], "ours": []}
    for _ in range(repeats):
        for name, command in (("nnU-Net", theirs), ("ours", ours)):
            shutil.rmtree(scratch, ignore_errors=True)
            runs[name].append(measured(command, environment))
    medians = {name: np.median(np.array(rows), axis=0) for name, rows in runs.items()}
    for name, rows in runs.items():
        wall, cpu, peak = medians[name]
        spread = f"{min(row[0] for row in rows):.1f} to {max(row[0] for row in rows):.1f}"
        print(f"  {what}, {_PROCESSES} processes, {name}: {wall:.1f} s ({spread}), {cpu:.1f} CPU s, largest process {peak / 2**20:.0f} MiB")
    wall, cpu, peak = medians["nnU-Net"] / medians["ours"]
    print(f"    ratios: wall {wall:.1f}, CPU {cpu:.1f}, memory {peak:.1f}", flush=True)


def measured(command: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds of the whole tree of processes, and bytes of the largest of them."""
    began = time.perf_counter()
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command]
    done = subprocess.run(launcher, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - began
    code, cpu, peak = done.stderr.split()[-3:]
    if code != "0":
        raise SystemExit(f"{command} ended with {code}:\n{done.stderr[-2000:]}")
    return seconds, float(cpu), float(peak)


def prepare_all(dataset: Path, configuration: str, folder: Path) -> None:
    """Our side of the whole run; nnU-Net's results lie in the place of its interpreter."""
    prepare(open_dataset(dataset), nnunet_plan(dataset, Path(sys.argv[1]), configuration), configuration, folder, workers=_PROCESSES)


if __name__ == "__main__":
    main()
