"""The observations of a dataset kept on disk, one line each, so that only new or changed cases are read again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from autoseg3d.files import storage_errors, write_text
from autoseg3d.fingerprinting.observation import Observation
from autoseg3d.io.case_files import CaseFiles
from autoseg3d.io.parts import stamps
from planners.labels import LabelTable

# Raise it whenever an observation would come out differently from the same files.
_VERSION = 1
_NAME = "observations.jsonl"


def case_key(files: CaseFiles, table: LabelTable, *, geometry: str) -> str:
    """What an observation depends on, hashed: path, size and time of change of each file, the labels, the options."""
    paths = [*files.images, *([files.label] if files.label is not None else [])]
    content = json.dumps([_VERSION, files.id, [[str(p), stamps(p)] for p in paths], files.stacked_channels, table.content_hash(), geometry])
    return hashlib.sha256(content.encode()).hexdigest()


class Journal:
    """Observations by key. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / _NAME
        self._known: dict[str, Observation] = {}
        if self._path is not None and self._path.is_file():
            with storage_errors(self._path):
                self._known = dict(filter(None, map(_parse, self._path.read_bytes().splitlines())))

    def get(self, key: str) -> Observation | None:
        """The observation made from exactly these files, None where there is none."""
        return self._known.get(key)

    def add(self, key: str, observation: Observation) -> None:
        """Keeps an observation; it is on disk, whole, when this returns."""
        self._known[key] = observation
        if self._path is None:
            return
        line = f'\n{{"key":"{key}","observation":{observation.model_dump_json()}}}\n'
        with storage_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # One write to the end of the file: lines of two processes do not mix, and a line cut short by a kill or a
            # full disk is not valid JSON, is skipped, and, as every line starts with its own line break, harms no other.
            with open(self._path, "ab", buffering=0) as file:
                rest = line.encode()
                while rest:  # a system may write less than it was given
                    rest = rest[file.write(rest) :]

    def keep_only(self, keys: set[str]) -> None:
        """Drops what belongs to no case any more, once that is most of the file."""
        if self._path is None or len(self._known) <= 2 * len(keys):
            return
        self._known = {key: self._known[key] for key in sorted(keys & self._known.keys())}
        lines = (f'{{"key":"{key}","observation":{known.model_dump_json()}}}\n' for key, known in self._known.items())
        write_text(self._path, "".join(lines))


def _parse(line: bytes) -> tuple[str, Observation] | None:
    try:
        entry = json.loads(line)
        return str(entry["key"]), Observation.model_validate(entry["observation"])
    except (ValueError, KeyError, TypeError, ValidationError):
        return None
