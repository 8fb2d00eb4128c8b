"""Whether this installation works, and whether results still are what their records say."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg3d.errors import UsageError

if TYPE_CHECKING:
    from autoseg3d.doctor import Finding
    from autoseg3d.prediction.verification import Check


def doctor(folder: Path = Path(), *, device: str = "auto") -> tuple[Finding, ...]:
    """Examines this machine and predicts a scan whose right answer is known, in several orientations.

    Args:
        folder: where results would be written; tried, and left as it was.
        device: as for predict.

    Raises UsageError where the folder or the device is not there.
    """
    from autoseg3d.doctor import examine_machine, examine_prediction

    if not folder.is_dir():
        raise UsageError("there is no such folder", field="folder", got=folder, remedy="Name the folder that results will be written to")
    found = list(examine_machine(folder))
    with tempfile.TemporaryDirectory(prefix="autoseg3d-doctor-") as scratch:
        found += examine_prediction(Path(scratch), device)
    return tuple(found)


def verify(records: Path, *, scans: Path | None = None, models: Sequence[Path] = (), predict: bool = False) -> tuple[Check, ...]:
    """Holds results against their records: every hash computed anew; see autoseg3d.prediction.verification."""
    from autoseg3d.prediction.verification import verify_records

    return verify_records(records, scans=scans, models=models, predict=predict)
