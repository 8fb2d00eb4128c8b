"""Contents: the records of a package besides its weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from autoseg3d.package.selection import Selection
from planners.fingerprint import Fingerprint
from planners.plan import Plan
from planners.postprocessing import PostprocessingTable


@dataclass(frozen=True)
class Contents:
    """What the JSON files of a package say; `selection` is None where nothing was chosen after training."""

    plan: Plan
    fingerprint: Fingerprint
    postprocessing: PostprocessingTable = field(default_factory=PostprocessingTable)
    selection: Selection | None = None
