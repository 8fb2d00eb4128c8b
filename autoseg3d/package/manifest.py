"""The manifest of a model package, and the names that files in it may have."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from planners.contract import Contract

MANIFEST = "manifest.json"
PLAN = "plan.json"
FINGERPRINT = "fingerprint.json"
CARD = "card.md"
POSTPROCESSING = "postprocessing.json"
SELECTION = "selection.json"
OPTIONAL = frozenset({POSTPROCESSING, SELECTION})
"""Files that a package may hold or lack."""

CROSS_VALIDATION_FOLDS = ("0", "1", "2", "3", "4")

_CONFIGURATION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_FOLD = r"(?:[0-9]{1,3}|full)"
_PLAIN = "|".join(re.escape(name) for name in (PLAN, FINGERPRINT, CARD, POSTPROCESSING, SELECTION))
_ALLOWED = re.compile(rf"{_PLAIN}|weights/{_CONFIGURATION}/fold_{_FOLD}\.safetensors")

Score = float | str | None | dict[str, float | None]


class FileRecord(Contract):
    """Size in bytes and SHA-256 (hex) of one file."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class FoldRecord(Contract):
    """One trained network: which configuration and fold, and how it did.

    `scores` are what training measured; "bf16_agreement" among them is the share of foreground voxels on which the
    network in bfloat16 agrees with itself in float32.
    """

    configuration: str = Field(pattern=f"^{_CONFIGURATION}$")
    fold: str = Field(pattern=f"^{_FOLD}$")
    scores: dict[str, Score] = Field(default_factory=dict)

    @property
    def file(self) -> str:
        """The name of its weights in the package."""
        return f"weights/{self.configuration}/fold_{self.fold}.safetensors"


class Manifest(Contract):
    """What a package holds; written last. `licence` is what the makers allow others to do with the model, in their words."""

    format: Literal["autoseg3d-model"] = "autoseg3d-model"
    schema_version: Literal[1] = 1
    software_version: str
    files: dict[Annotated[str, Field(max_length=200)], FileRecord]
    folds: tuple[FoldRecord, ...] = ()
    licence: str | None = Field(default=None, max_length=1000)

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        if wrong := sorted(name for name in self.files if not allowed_name(name)):
            raise ValueError(f"files has names no model package may hold: {wrong}")
        expected = {PLAN, FINGERPRINT, CARD, *(fold.file for fold in self.folds), *(OPTIONAL & set(self.files))}
        if len(self.folds) != len({fold.file for fold in self.folds}) or expected != set(self.files):
            raise ValueError(f"files and folds do not fit together: {sorted(expected ^ set(self.files))}")
        return self


def allowed_name(name: str) -> bool:
    """Whether a package may hold a file of this name besides its manifest."""
    return _ALLOWED.fullmatch(name) is not None and ".." not in name
