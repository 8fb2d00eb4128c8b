"""Reasons: every number of a plan with the rule it came from, so that a person can follow, doubt and change it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from planners.plan import Decision, Plan

T = TypeVar("T")


@dataclass(frozen=True)
class Choice(Generic[T]):
    """A value with the rule that made it and the reason in plain words, numbers included."""

    value: T
    rule: str
    reason: str


class Ledger:
    """Collects the decisions of one planning, in the order they were made. A later note on a field adds to it."""

    def __init__(self) -> None:
        self._decisions: list[Decision] = []

    def take(self, field: str, choice: Choice[T]) -> T:
        """Writes the choice down under the dotted `field` of the plan and gives its value back."""
        self.note(field, choice.rule, choice.reason)
        return choice.value

    def note(self, field: str, rule: str, reason: str) -> None:
        """Writes down why the dotted `field` is what it is."""
        self._decisions.append(Decision(field=field, rule=rule, reason=reason))

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """All that was written down."""
        return tuple(self._decisions)


def reasons_for(plan: Plan, field: str) -> tuple[Decision, ...]:
    """The decisions on a dotted field, on a part of it, or on what it is part of."""
    return tuple(d for d in plan.decisions if d.field == field or _within(field, d.field) or _within(d.field, field))


def unexplained(plan: Plan) -> tuple[str, ...]:
    """Dotted paths of all values that no decision speaks of; empty for every plan of this program's planners."""
    spoken = {decision.field for decision in plan.decisions}
    data = plan.model_dump(mode="json", exclude={"decisions", "schema_version", "planner", "dataset_name", "fingerprint_hash"})
    return tuple(path for path in leaves(data) if not any(path == field or _within(path, field) for field in spoken))


def leaves(data: Mapping[str, Any] | Iterable[Any], at: str = "") -> Iterator[str]:
    """Dotted paths of all scalars and lists of scalars in nested JSON data; records in lists are numbered, null is no value."""
    items = data.items() if isinstance(data, Mapping) else enumerate(data)
    for key, value in items:
        path = f"{at}.{key}" if at else str(key)
        nested = isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(v, Mapping | list) for v in value))
        if nested:
            yield from leaves(value, path)
        elif value is not None:
            yield path


def _within(path: str, field: str) -> bool:
    """Whether `path` lies inside `field`; stage numbers may be left out: network.stages.features speaks for every stage."""
    parts, wanted = path.split("."), field.split(".")
    bare = [part for part in parts if not part.isdigit()]
    return parts[: len(wanted)] == wanted or bare[: len(wanted)] == wanted


def triple_text(values: Iterable[float]) -> str:
    """Numbers as people write a size: 128 × 128 × 96, at most four digits after the point."""
    return " × ".join(f"{value:.4f}".rstrip("0").rstrip(".") for value in values)


def bytes_text(count: float) -> str:
    """Bytes as GiB, as MiB below one GiB, as KiB below one MiB."""
    if count < 1024**2:
        return f"{count / 1024:.0f} KiB"
    return f"{count / 1024**3:.2f} GiB" if count >= 1024**3 else f"{count / 1024**2:.0f} MiB"


def duration_text(seconds: float) -> str:
    """Seconds as people say them: 0.44 s, 45 s, 20 min, 6.5 h, 3.2 days."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    for limit, divisor, unit in ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds / 86400:.1f} days"
