"""Every error this program raises on purpose, as one tree.

Autoseg3dError                    exit   raised when
├── UsageError                      2    the command line, an option or a hand-edited plan is wrong
├── DataError                       3    something in the user's files is wrong
│   ├── ReadError                   3    a file is truncated, corrupt or not what its name says
│   ├── GeometryError               3    orientation, spacing or units contradict themselves or each other
│   ├── LabelError                  3    a label map holds values, shapes or classes it should not
│   └── DatasetError                3    a dataset folder has faults: `faults` lists all of them at once
├── ModelError                      3    a model package is incomplete, altered or from another version
└── StoppedError                    4    the work stopped early and can be resumed
    ├── LockedError                 4    another process works on the same folder
    ├── StorageError                4    the disk is full, read-only or failing
    └── InterruptedByUserError           4    a signal asked the program to stop

Each says what happened, where (case, file, field), what was wanted, what was found, and what to do next. `code` is the
short stable name that tests, results.json and scripts go by. Anything else that escapes is a bug of ours: exit 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class Autoseg3dError(Exception):
    """An error with a stable code and everything a person needs to mend it.

    Args:
        what: one sentence: what is wrong.
        code: stable short name, for instance "E_TRUNCATED".
        file: the file concerned.
        case: the case concerned.
        field: the field, option or header entry concerned.
        wanted: what would have been right.
        got: what was found.
        remedy: the next step, in words a newcomer understands.
    """

    exit_code = 1
    default_code = "E_INTERNAL"
    default_remedy: str | None = None

    def __init__(
        self,
        what: str,
        *,
        code: str | None = None,
        file: Path | str | None = None,
        case: str | None = None,
        field: str | None = None,
        wanted: object = None,
        got: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.code = what, code or self.default_code
        self.file, self.case, self.field = file, case, field
        self.wanted, self.got, self.remedy = wanted, got, remedy or self.default_remedy
        super().__init__(what)

    def __str__(self) -> str:
        places = [
            f"{name} {value}" for name, value in (("case", self.case), ("file", self.file), ("field", self.field)) if value is not None
        ]
        facts = [f"{name} {value}" for name, value in (("wanted", self.wanted), ("got", self.got)) if value is not None]
        text = self.what.rstrip(".")
        if places:
            text = f"{', '.join(places)}: {text}"
        if facts:
            text += f" ({'; '.join(facts)})"
        if self.remedy:
            text += f". {self.remedy.rstrip('.')}"
        return f"{self.code}: {text}."

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries (worker pools); the keyword-only constructor needs telling how.
        state = {k: getattr(self, k) for k in ("code", "file", "case", "field", "wanted", "got", "remedy")}
        return (_rebuild, (type(self), self.what, state))


def _rebuild(kind: type[Autoseg3dError], what: str, state: dict[str, object]) -> Autoseg3dError:
    error = kind(what)
    error.__dict__.update(state)
    return error


class UsageError(Autoseg3dError):
    """The command line, an option or a hand-edited plan is wrong."""

    exit_code = 2
    default_code = "E_USAGE"


class DataError(Autoseg3dError):
    """Something in the user's files is wrong."""

    exit_code = 3
    default_code = "E_DATA"


class ReadError(DataError):
    """A file is truncated, corrupt or not what its name says."""

    default_code = "E_READ"
    default_remedy = "Copy or export the file again from its source"


class GeometryError(DataError):
    """Orientation, spacing or units contradict themselves or each other."""

    default_code = "E_GEOMETRY"
    default_remedy = "Export the scan again from its source"


class LabelError(DataError):
    """A label map holds values, shapes or classes it should not."""

    default_code = "E_LABEL"


class DatasetError(DataError):
    """A dataset folder has faults; `faults` holds every one of them."""

    default_code = "E_DATASET"

    def __init__(
        self, what: str, faults: Sequence[Autoseg3dError] = (), *, file: Path | str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(what, file=file, remedy=remedy)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {fault}" for fault in self.faults)])

    def __reduce__(self) -> tuple[object, ...]:
        return (DatasetError, (self.what, self.faults), {"file": self.file, "remedy": self.remedy})


class ModelError(Autoseg3dError):
    """A model package is incomplete, altered or from another version."""

    exit_code = 3
    default_code = "E_MODEL"


class StoppedError(Autoseg3dError):
    """The work stopped early and can be resumed."""

    exit_code = 4
    default_code = "E_STOPPED"


class LockedError(StoppedError):
    """Another process works on the same folder."""

    default_code = "E_LOCKED"


class StorageError(StoppedError):
    """The disk is full, read-only or failing."""

    default_code = "E_STORAGE"


class InterruptedByUserError(StoppedError):
    """A signal asked the program to stop."""

    default_code = "E_INTERRUPTED"
