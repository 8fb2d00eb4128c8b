"""Reading records that people edit or older versions wrote: upgraded, validated, every fault with its field and remedy."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from planners.budget import PlanningError
from planners.contract import Contract, FieldError
from planners.fingerprint import Fingerprint, fingerprint_from_nnunet
from planners.labels import LabelTable
from planners.plan import Plan

Data = Mapping[str, Any]
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
_Kind = TypeVar("_Kind", bound=Contract)

PLAN_VERSION = 1

# One function per version that was ever released: it takes a plan of that version to the next.
PLAN_UPGRADES: Mapping[int, Upgrade] = {}


def read_plan(data: Any, *, upgrades: Mapping[int, Upgrade] = PLAN_UPGRADES, version: int = PLAN_VERSION) -> Plan:
    """The Plan of parsed JSON, upgraded from older versions and checked.

    Raises PlanningError naming the first offending field, for instance `configurations.3d_fullres.patch_size`, with
    its value; `also` in its message counts further faults.
    """
    return checked(Plan, upgraded(data, upgrades=upgrades, version=version), remedy="Mend it in plan.json, or plan anew")


def upgraded(data: Any, *, upgrades: Mapping[int, Upgrade] = PLAN_UPGRADES, version: int = PLAN_VERSION) -> dict[str, Any]:
    """Plan data of any released version as data of `version`. Raises PlanningError for versions nobody knows."""
    if not isinstance(data, Mapping):
        raise PlanningError("plan", type(data).__name__, "a plan is a JSON object", "Plan anew with `autoseg3d plan`")
    current = dict(data)
    while (found := current.get("schema_version", version)) != version:
        if not isinstance(found, int) or found > version:
            reason = f"this program reads plans up to version {version}"
            raise PlanningError("schema_version", found, reason, "Update autoseg3d, or plan anew with this one")
        if found not in upgrades:
            raise PlanningError("schema_version", found, "no such version was ever written", "Plan anew with `autoseg3d plan`")
        current = {**upgrades[found](current), "schema_version": found + 1}
    return current


def read_fingerprint(data: Any) -> Fingerprint:
    """The Fingerprint of parsed JSON. Raises PlanningError naming the offending field, for instance `cases.3.spacing_mm.0`."""
    return checked(Fingerprint, data, remedy="Make the fingerprint anew with `autoseg3d plan`")


def read_nnunet_fingerprint(fingerprint: Any, dataset: Any, labels: LabelTable) -> Fingerprint:
    """The Fingerprint of nnU-Net's dataset_fingerprint.json and dataset.json. Raises PlanningError naming what is wrong."""
    remedy = "Check dataset_fingerprint.json and dataset.json, or let nnU-Net extract the fingerprint anew"
    try:
        return fingerprint_from_nnunet(fingerprint, dataset, labels)
    except ValidationError as error:
        raise _first_fault(error, remedy) from error
    except KeyError as error:
        raise PlanningError(str(error.args[0]), "nothing", "this entry is missing", remedy) from error
    except (TypeError, ValueError) as error:
        raise PlanningError("dataset_fingerprint", type(fingerprint).__name__, str(error), remedy) from error


# What pydantic says in a programmer's words.
_SAID = {
    "missing": "this entry is missing",
    "too_short": "needs at least {min_length} and has {actual_length}",
    "too_long": "may have at most {max_length} and has {actual_length}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
}


def checked(kind: type[_Kind], data: Any, *, remedy: str) -> _Kind:
    """`data` as a record of `kind`. Raises PlanningError naming the offending field, its value and the remedy."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _first_fault(error, remedy, kind) from error


def _first_fault(error: ValidationError, remedy: str, kind: type[Contract] | None = None) -> PlanningError:
    faults = error.errors(include_url=False)
    # A value that is wrong by itself explains more than a contradiction that it causes further out.
    fault = max(faults, key=lambda f: len(f["loc"]))
    place, got, reason = [str(part) for part in fault["loc"]], fault["input"], fault["msg"]
    cause = (fault.get("ctx") or {}).get("error")
    if isinstance(cause, FieldError):
        got, reason = _inside(got, cause.field), str(cause)
        place += cause.field.split(".")
    if (said := _SAID.get(fault["type"])) is not None:
        reason = said.format_map(fault.get("ctx") or {})
    if fault["type"] == "extra_forbidden":
        reason = f"no such field{_suggestion(place, kind)}"
    if len(faults) > 1:
        reason += f" (and {len(faults) - 1} more)"
    return PlanningError(".".join(place) or "plan", _shown(got), reason, remedy)


def _suggestion(place: list[str], kind: type[Contract] | None) -> str:
    fields = list(kind.model_fields) if kind is not None and len(place) == 1 else _all_fields(kind)
    close = difflib.get_close_matches(place[-1], fields, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _all_fields(kind: type[Contract] | None) -> list[str]:
    return sorted({name for record in Contract.__subclasses__() for name in record.model_fields}) if kind is not None else []


def _inside(value: Any, field: str) -> Any:
    """The value at a dotted field of what a validator was given; the whole where it is not there."""
    for part in field.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return value
    return value


def _shown(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value) if isinstance(value, str | int | float | list | tuple | bool) or value is None else f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
