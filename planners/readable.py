"""A plan for people: the numbers that matter, in the order of a methods section, each with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from planners.explain import triple_text
from planners.plan import Configuration, Plan


@dataclass(frozen=True)
class Line:
    """One number: what it is, its value, and why."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True)
class Section:
    """The lines of one part of the plan."""

    title: str
    lines: tuple[Line, ...]


def sections(plan: Plan) -> tuple[Section, ...]:
    """The whole plan: general choices, one section per configuration, and the training recipe."""
    general = (
        Line("planner", plan.planner, _why(plan, "planner")),
        Line("orientation", plan.orientation, _why(plan, "orientation")),
        Line("axis order", triple_text(plan.axis_order), _why(plan, "axis_order")),
        Line("mirror axes", _list(plan.mirror_axes), _why(plan, "mirror_axes")),
    )
    configurations = tuple(Section(name, _configuration(plan, name, made)) for name, made in plan.configurations.items())
    return (Section(f"Plan for {plan.dataset_name}", general), *configurations, Section("training", _training(plan)))


def plan_markdown(plan: Plan) -> str:
    """The plan as Markdown tables, for plan.md."""
    parts = []
    for level, section in enumerate(sections(plan)):
        rows = [f"| {line.name} | {line.value} | {line.reason} |" for line in section.lines]
        parts.append("\n".join([f"{'#' if level == 0 else '##'} {section.title}", "", "| | chosen | because |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _configuration(plan: Plan, name: str, made: Configuration) -> tuple[Line, ...]:
    stages = made.network.stages
    table = (
        ("spacing (mm)", "spacing_mm", triple_text(made.spacing_mm)),
        ("median shape", "median_shape", triple_text(made.median_shape)),
        ("normalisation", "normalization", ", ".join(made.normalization)),
        ("patch", "patch_size", triple_text(made.patch_size)),
        ("batch", "batch_size", str(made.batch_size)),
        ("network", "network.architecture", f"{made.network.architecture}, {len(stages)} stages"),
        ("features", "network.stages.features", _list(stage.features for stage in stages)),
        ("blocks", "network.stages.blocks", _list(stage.blocks for stage in stages)),
        ("kernels", "network.stages.kernel", _list("".join(map(str, stage.kernel)) for stage in stages)),
        ("strides", "network.stages.stride", _list("".join(map(str, stage.stride)) for stage in stages)),
        ("previous stage", "previous_stage", made.previous_stage or ""),
    )
    return tuple(Line(label, value, _why(plan, f"configurations.{name}.{field}")) for label, field, value in table if value)


def _training(plan: Plan) -> tuple[Line, ...]:
    recipe = plan.training
    table = (
        ("epochs", "epochs", f"{recipe.epochs} of {recipe.iterations} iterations"),
        ("time", "seconds", f"{recipe.seconds / 60:g} min per fold" if recipe.seconds else "as long as the epochs take"),
        ("optimiser", "optimizer", f"{recipe.optimizer}, learning rate {recipe.learning_rate:g}, {recipe.schedule}"),
        ("averaged weights", "ema_decay", f"decay {recipe.ema_decay:g}" if recipe.ema_decay else "no"),
    )
    return tuple(Line(label, value, _why(plan, f"training.{field}")) for label, field, value in table)


def _why(plan: Plan, field: str) -> str:
    """Reasons given for a field or, where there is none, for the nearest thing it is part of."""
    while field:
        if found := [decision.reason for decision in plan.decisions if decision.field == field]:
            return "; ".join(found)
        field = field.rpartition(".")[0]
    return ""


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "none"
