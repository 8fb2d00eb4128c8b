"""How long the report of a run or of a batch takes, and how large it is.

    python benchmarks/report.py RUN
    python benchmarks/report.py OUT --scans SCANS

Prints seconds (median and spread of three) and megabytes, with the viewer and without. No peer makes such a page.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from autoseg3d import api


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scans", type=Path, default=None)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for viewer in (True, False):
            seconds = []
            for _ in range(options.repeats):
                begun = time.perf_counter()
                page = api.report(options.folder, Path(folder) / "r.html", scans=options.scans, viewer=viewer, workers=options.workers)
                seconds.append(time.perf_counter() - begun)
            spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
            size = page.stat().st_size / 1e6
            print(f"viewer {'yes' if viewer else 'no '}: {statistics.median(seconds):.1f} s ({spread}), {size:.2f} MB")  # noqa: T201


if __name__ == "__main__":
    main()
