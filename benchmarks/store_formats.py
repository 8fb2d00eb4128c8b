"""How fast patches can be read from prepared cases in several forms of storage, and what these cost on disk.

Usage: python benchmarks/store_formats.py [--shape 200 300 300]

The volume is smooth noise resampled to a finer grid, as a prepared scan is. "warm" reads come from the system's cache,
"cold" ones follow after the file has been dropped from it. Every read ends as a float32 array of its own.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from autoseg3d.case import Placement
from autoseg3d.geometry import Geometry
from autoseg3d.ops.resampling import resize_image
from autoseg3d.preprocessing.case_file import open_case, read_record, write_case
from autoseg3d.preprocessing.store import CaseStore, case_path
from autoseg3d.preprocessing.working_case import WorkingCase

Box = tuple[slice, ...]
PATCHES = ((96, 96, 96), (128, 128, 128), (40, 56, 40))
READS = 24


def volume(shape: tuple[int, int, int]) -> np.ndarray:
    """(1, *shape) float32, mean 0, deviation 1, with the correlation between neighbours that resampling makes."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(1, *(max(2, n // 2) for n in shape))).astype(np.float32)
    field = resize_image(coarse, shape)
    return field / field.std()


class Ours:
    """The store as it is."""

    def __init__(self, folder: Path, image: np.ndarray, *, scale: float) -> None:
        shape = image.shape[1:]
        placement = Placement(
            native=Geometry.from_affine(shape, np.eye(4)),
            axes=(0, 1, 2),
            flips=(False, False, False),
            crop_start=(0, 0, 0),
            cropped_shape=shape,
            working_shape=shape,
        )
        working = WorkingCase("a", image * np.float32(scale), np.zeros(shape, dtype=np.int16), placement, {})
        self.path = case_path(folder, "a")
        write_case(self.path, working, source=())
        self.store = CaseStore(folder, {"a": read_record(self.path).content}, {})

    def read(self, box: Box) -> np.ndarray:
        start, shape = [s.start for s in box], [s.stop - s.start for s in box]
        return self.store.read("a", tuple(start), tuple(shape))[0]  # type: ignore[arg-type]

    def close(self) -> None:
        open_case.cache_clear()


class Npy:
    """A plain memory-mapped .npy file."""

    def __init__(self, folder: Path, image: np.ndarray, dtype: type) -> None:
        self.path = folder / "a.npy"
        np.save(self.path, image.astype(dtype))
        with open(self.path, "r+b") as file:
            os.fsync(file.fileno())
        self.array: np.ndarray | None = None

    def read(self, box: Box) -> np.ndarray:
        if self.array is None:
            self.array = np.asarray(np.load(self.path, mmap_mode="r"))
        return np.ascontiguousarray(self.array[:, *box]).astype(np.float32)

    def close(self) -> None:
        self.array = None


class Blosc:
    """blosc2 with one thread."""

    def __init__(self, folder: Path, image: np.ndarray, dtype: type, codec: str, level: int) -> None:
        import blosc2

        self.path, self.blosc2 = folder / "a.b2nd", blosc2
        blosc2.asarray(
            image.astype(dtype),
            urlpath=str(self.path),
            mode="w",
            chunks=(1, *(min(96, n) for n in image.shape[1:])),
            blocks=(1, *(min(32, n) for n in image.shape[1:])),
            cparams={"codec": blosc2.Codec[codec], "clevel": level, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1},
        )
        with open(self.path, "r+b") as file:
            os.fsync(file.fileno())
        self.array: object = None

    def read(self, box: Box) -> np.ndarray:
        if self.array is None:
            self.array = self.blosc2.open(str(self.path), mmap_mode="r", dparams={"nthreads": 1})
        return np.asarray(self.array[(slice(None), *box)]).astype(np.float32)  # type: ignore[index]

    def close(self) -> None:
        self.array = None


def measure(make: Callable[[Path], Ours | Npy | Blosc], shape: tuple[int, int, int]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        form = make(Path(folder))
        cells = [f"{form.path.stat().st_size / 2**20:8.1f}", f"{time.process_time() - began:8.2f}"]
        for patch in PATCHES:
            rng = np.random.default_rng(1)
            warm, cold = [], []
            for i in range(READS):
                at = [int(rng.integers(0, max(1, n - p + 1))) for n, p in zip(shape, patch, strict=True)]
                box = tuple(slice(a, min(a + p, n)) for a, p, n in zip(at, patch, shape, strict=True))
                if i % 4 == 0:
                    cold.append(read_cold(form, box))
                form.read(box)
                began = time.process_time()
                form.read(box)
                warm.append(time.process_time() - began)
            cells.append(f"{np.median(warm) * 1e3:8.2f} {np.median(cold) * 1e3:8.1f}")
        form.close()
    return " ".join(cells)


def read_cold(form: Ours | Npy | Blosc, box: Box) -> float:
    """Wall seconds of a read after the file has left the system's cache."""
    form.close()
    handle = os.open(form.path, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)
    began = time.perf_counter()
    form.read(box)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(200, 300, 300))
    shape = tuple(parser.parse_args().shape)
    image = volume(shape)
    forms: dict[str, Callable[[Path], Ours | Npy | Blosc]] = {
        "ours, float16": lambda folder: Ours(folder, image, scale=1),
        "ours, float32 (values > 6e4)": lambda folder: Ours(folder, image, scale=1e6),
        "npy float16": lambda folder: Npy(folder, image, np.float16),
        "npy float32": lambda folder: Npy(folder, image, np.float32),
        "blosc2 LZ4 5 float16": lambda folder: Blosc(folder, image, np.float16, "LZ4", 5),
        "blosc2 ZSTD 1 float16": lambda folder: Blosc(folder, image, np.float16, "ZSTD", 1),
        "blosc2 ZSTD 1 float32": lambda folder: Blosc(folder, image, np.float32, "ZSTD", 1),
    }
    names = " ".join(f"{'x'.join(map(str, patch)):>17}" for patch in PATCHES)
    print(f"{shape}: size in MiB, CPU seconds to write; per patch: warm CPU ms, cold wall ms\n{'':30} {'MiB':>8} {'write':>8} {names}")
    for name, make in forms.items():
        print(f"{name:30} {measure(make, shape)}", flush=True)


if __name__ == "__main__":
    main()
