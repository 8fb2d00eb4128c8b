"""The base of every type that is written to disk: immutable, strict about its fields, readable as JSON."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Triple = tuple[int, int, int]
# A million voxels along an axis is more than any scanner gives; beyond it, products of three no longer fit into 64 bits.
_Extent = Annotated[int, Field(ge=1, le=2**20)]
PositiveTriple = tuple[_Extent, _Extent, _Extent]
SpacingTriple = tuple[
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
]


class FieldError(ValueError):
    """A contradiction inside a record, with the name of the field to mend; for validators that look at several fields."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Contract(BaseModel):
    """A frozen record: unknown fields are refused, so that a misspelt field in a hand-edited file is found at once."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def to_json(self) -> str:
        """Readable JSON, two spaces deep, short number lists on one line each, with a final newline."""
        return readable_json(self.model_dump(mode="json"))

    def content_hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON form: equal content gives an equal hash on every machine."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


def readable_json(value: Any) -> str:
    """JSON of `value` in which lists of plain numbers or words stay on one line, for people who edit plans."""
    return _render(value, "") + "\n"


def _render(value: Any, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, dict) and value:
        rows = [f"{inner}{json.dumps(str(key))}: {_render(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + indent + "}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        rows = [inner + _render(item, inner) for item in value]
        return "[\n" + ",\n".join(rows) + "\n" + indent + "]"
    return json.dumps(value, allow_nan=False, ensure_ascii=False)
