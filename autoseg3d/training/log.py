"""log.jsonl: one line per epoch, rewritten from the saved state when a run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg3d.files import storage_errors, write_text


def line(record: Mapping[str, Any]) -> str:
    """One record as one line of JSON."""
    return json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n"


def rewrite(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Makes the file hold exactly these records: epochs after the saved state are run again, so their lines must go."""
    write_text(path, "".join(line(record) for record in records))


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Adds one record and brings it to the disk."""
    with storage_errors(path), open(path, "a", encoding="utf-8") as file:
        file.write(line(record))
        file.flush()
        os.fsync(file.fileno())


def untimed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what differs between two equal runs: its clock readings and memory."""
    return {key: value for key, value in record.items() if key != "timing"}
