"""CaseFiles: which files make up one case."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoseg3d.errors import DataError


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case, none of them opened yet.

    id                the case's name: letters, digits, dot, dash and underscore
    images            one path per channel (a file, or a folder with a DICOM series)
    label             the label map, None where the case is to be predicted
    group             cases of one group (one patient) never straddle folds; None: a group of its own
    stacked_channels  channels stacked along the fourth axis of the only image; 1 for files of one volume
    fault             what is already known to be wrong; `load_case` raises it, so that a batch goes on
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    group: str | None = None
    stacked_channels: int = 1
    fault: DataError | None = None
