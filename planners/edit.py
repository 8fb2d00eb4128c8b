"""Changing plans: fixing values so that the rest is derived anew around them, and comparing plans side by side."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from planners.budget import GIB, MIB, Budget, CostFunction, Planner, PlanningError
from planners.contract import Triple
from planners.explain import bytes_text, leaves, triple_text
from planners.fingerprint import Fingerprint
from planners.overrides import NO_OVERRIDES, Overrides
from planners.plan import Configuration, Decision, Plan
from planners.reading import checked, read_plan

_SIZES = {"gb": GIB, "gib": GIB, "g": GIB, "mb": MIB, "mib": MIB, "m": MIB}
_SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}
_CONSTRAINTS = {"spacing": "spacing_mm", "spacing_mm": "spacing_mm", "patch_size": "patch_size", "patch": "patch_size"}
_CONSTRAINTS |= {"batch_size": "batch_size", "batch": "batch_size"}
_GLOBAL = {"spacing": "spacing_mm", "spacing_mm": "spacing_mm", "architecture": "architecture", "base_features": "base_features"}
_REMEDY = "Write FIELD=VALUE, for instance 3d_fullres.patch_size=96,160,160 or memory=24GB"


@dataclass(frozen=True)
class Change:
    """What assignments ask for: another budget, constraints on the rules, and values that nothing depends on (`values`)."""

    budget: Budget
    overrides: Overrides = NO_OVERRIDES
    values: Mapping[str, Any] = field(default_factory=dict)
    planner: str | None = None


def parse_change(assignments: Sequence[str], budget: Budget) -> Change:
    """The Change that FIELD=VALUE texts describe, as given to `--set` and `--what-if`.

    - `memory=24GB`, `minutes=20` (or `hours`, `seconds`), `device=cpu`: the budget; `planner=NAME`: another planner;
    - `spacing=1,1,1`, `architecture=resenc`, `base_features=16`: all configurations;
    - `3d_fullres.patch_size=96,160,160`, `.spacing_mm=…`, `.batch_size=…`: one configuration;
    - any other dotted field of the plan, such as `training.epochs=300` or `mirror_axes=1,2`: the value itself.

    Raises PlanningError naming the field.
    """
    granted: dict[str, Any] = {}
    fixed: dict[str, Any] = {"configurations": {}}
    values: dict[str, Any] = {}
    planner = None
    for text in assignments:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not sign or not name or not value:
            raise PlanningError(name or text, value or "nothing", "not an assignment", _REMEDY)
        configuration, dot, leaf = name.removeprefix("configurations.").partition(".")
        if name == "planner":
            planner = value
        elif name == "memory" or name in _SECONDS or name == "device":
            granted |= _grant(name, value, budget)
        elif name in _GLOBAL:
            fixed[_GLOBAL[name]] = _value(value)
        elif dot and leaf in _CONSTRAINTS:
            fixed["configurations"].setdefault(configuration, {})[_CONSTRAINTS[leaf]] = _value(value)
        else:
            values[name] = _value(value)
    new_budget = checked(Budget, budget.model_dump() | granted, remedy=_REMEDY)
    return Change(new_budget, checked(Overrides, fixed, remedy=_REMEDY), values, planner)


def _grant(name: str, value: str, budget: Budget) -> dict[str, Any]:
    if name == "memory":
        return {"memory_bytes": parse_memory(value)}
    if name == "device":
        # Speed and free memory are this machine's; another device is planned for by conservative figures.
        return {"device": value} | ({} if value == budget.device else {"speed": None, "free_bytes": None})
    try:
        return {"seconds": float(value) * _SECONDS[name]}
    except ValueError:
        raise PlanningError(name, value, "not a number", f"Write {name}=20") from None


def parse_memory(text: str) -> int:
    """Bytes of "24GB", "24 GiB", "512MB" or a plain number of GB; a GB is taken as a GiB, as graphics cards are sold."""
    lowered = text.strip().lower()
    unit = next((unit for unit in sorted(_SIZES, key=len, reverse=True) if lowered.endswith(unit)), "")
    try:
        size = float(lowered.removesuffix(unit)) * _SIZES[unit or "gb"]
        if not size >= 1:
            raise ValueError
        return int(size)
    except (ValueError, OverflowError):
        raise PlanningError("memory", text, "not an amount of memory", "Write it like 8GB or 512MB") from None


def _value(text: str) -> Any:
    """JSON where it is JSON, a list where there are commas, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    if "," in text:
        return [_value(part.strip()) for part in text.strip("()[]").split(",")]
    return text


def replan(planner: Planner, fingerprint: Fingerprint, cost: CostFunction, change: Change) -> Plan:
    """The plan under a Change: constraints reach the planner, which derives everything else; plain values are set after.

    The result is checked as a hand-edited plan would be, and where a set value alters a network, against the memory.
    Raises PlanningError naming the field, also for constraints on a third party's planner that takes none.
    """
    if change.overrides == NO_OVERRIDES:
        plan = planner(fingerprint, change.budget, cost)
    elif "overrides" in inspect.signature(planner).parameters:
        plan = planner(fingerprint, change.budget, cost, overrides=change.overrides)  # type: ignore[call-arg]
    else:
        given = change.overrides.model_dump(exclude_defaults=True)
        raise PlanningError(next(iter(given)), given, "this planner takes no constraints", "Edit plan.json after planning instead")
    plan = _with_user_values(plan, change.values)
    for name in {path.removeprefix("configurations.").split(".")[0] for path in change.values if ".network" in path}:
        _check_memory(plan, name, change.budget, cost)
    return plan


def _with_user_values(plan: Plan, values: Mapping[str, Any]) -> Plan:
    if not values:
        return plan
    data = plan.model_dump(mode="json")
    paths = [_set(data, path, value) for path, value in values.items()]
    kept = [d for d in data["decisions"] if d["field"] not in paths]
    said = [Decision(field=path, rule="set by the user", reason="fixed after planning; nothing else was changed for it") for path in paths]
    return read_plan({**data, "decisions": [*kept, *(d.model_dump() for d in said)]})


def _set(data: dict[str, Any], path: str, value: Any) -> str:
    """Sets a dotted path in plan data, in place, and gives the full path back; `3d_fullres.` may stand for `configurations.3d_fullres.`."""
    parts = path.split(".")
    if parts[0] in data["configurations"]:
        parts = ["configurations", *parts]
    place: Any = data
    for depth, part in enumerate(parts):
        key: Any = int(part) if isinstance(place, list) and part.isdigit() else part
        known = range(len(place)) if isinstance(place, list) else place
        if not isinstance(place, dict | list) or key not in known:
            close = difflib.get_close_matches(path, [p.removeprefix("configurations.") for p in leaves(data)] + list(data), n=1, cutoff=0.5)
            hint = f"Perhaps {close[0]} was meant" if close else "See plan.json for the fields of a plan"
            raise PlanningError(".".join(parts[: depth + 1]), value, "no such field", hint)
        if depth < len(parts) - 1:
            place = place[key]
    place[key] = value
    return ".".join(parts)


def _check_memory(plan: Plan, name: str, budget: Budget, cost: CostFunction) -> None:
    if name not in plan.configurations or budget.memory_bytes is None:
        return
    configuration = plan.configurations[name]
    traced = cost(
        configuration.network,
        patch_size=configuration.patch_size,
        batch_size=configuration.batch_size,
        in_channels=plan.in_channels(name),
        num_classes=plan.labels.num_classes,
        device=budget.device,
    )
    if traced.training_bytes > budget.memory_bytes:
        needs = f"a training step would take {bytes_text(traced.training_bytes)} of {bytes_text(budget.memory_bytes)}"
        raise PlanningError(f"configurations.{name}.network", configuration.network.architecture, needs, "Set a smaller patch or batch too")


@dataclass(frozen=True)
class ComparedRow:
    """One field of several plans: the values as text, in the order of the plans; "–" where a plan has no such field."""

    field: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the plans disagree."""
        return len(set(self.values)) > 1


def compare(plans: Sequence[Plan]) -> tuple[ComparedRow, ...]:
    """The rows of a side-by-side table: what is common to a plan, then each configuration that any of them has."""
    names = list(dict.fromkeys(name for plan in plans for name in plan.configurations))
    tables = [_summary(plan, names) for plan in plans]
    fields = list(dict.fromkeys(name for table in tables for name in table))
    return tuple(ComparedRow(name, tuple(table.get(name, "–") for table in tables)) for name in fields)


def _summary(plan: Plan, names: Sequence[str]) -> dict[str, str]:
    recipe = plan.training
    rows = {
        "planner": plan.planner,
        "orientation": plan.orientation,
        "axis_order": _listed(plan.axis_order),
        "mirror_axes": _listed(plan.mirror_axes) or "none",
        "training.epochs": f"{recipe.epochs} × {recipe.iterations}",
        "training.seconds": "not limited" if recipe.seconds is None else f"{recipe.seconds:g}",
        "training.optimizer": f"{recipe.optimizer}, {recipe.schedule}, learning rate {recipe.learning_rate:g}",
    }
    for name in names:
        if (configuration := plan.configurations.get(name)) is not None:
            rows |= {f"{name}.{key}": text for key, text in _configuration_summary(configuration).items()}
    return rows


def _configuration_summary(configuration: Configuration) -> dict[str, str]:
    stages = configuration.network.stages
    return {
        "spacing_mm": triple_text(configuration.spacing_mm),
        "median_shape": triple_text(configuration.median_shape),
        "patch_size": triple_text(configuration.patch_size),
        "batch_size": str(configuration.batch_size),
        "network": f"{configuration.network.architecture}, {len(stages)} stages",
        "features": _listed(tuple(stage.features for stage in stages)),
        "strides": " ".join("".join(map(str, stage.stride)) for stage in stages),
        "kernels": " ".join("".join(map(str, stage.kernel)) for stage in stages),
        "batch_dice": str(configuration.batch_dice).lower(),
    }


def _listed(values: tuple[int, ...] | Triple) -> str:
    return ", ".join(str(value) for value in values)
