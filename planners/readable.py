"""A plan for people: the numbers that matter, in the order of a methods section, each with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from planners.explain import bytes_text, duration_text, triple_text
from planners.forecast import Forecast
from planners.plan import AugmentationPlan, Configuration, Plan


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


def sections(plan: Plan, forecasts: Iterable[Forecast] = ()) -> tuple[Section, ...]:
    """The whole plan: general choices, one section per configuration, the training recipe, and what it all will take."""
    general = (
        Line("planner", plan.planner, _why(plan, "planner")),
        Line("orientation", plan.orientation, _why(plan, "orientation")),
        Line("axis order", triple_text(plan.axis_order), _why(plan, "axis_order")),
        Line("mirror axes", _list(plan.mirror_axes), _why(plan, "mirror_axes")),
    )
    configurations = tuple(Section(name, _configuration(plan, name, made)) for name, made in plan.configurations.items())
    ahead = tuple(Section(f"{made.configuration}: what training will take", _forecast(made)) for made in forecasts)
    return (Section(f"Plan for {plan.dataset_name}", general), *configurations, Section("training", _training(plan)), *ahead)


def plan_markdown(plan: Plan, forecasts: Iterable[Forecast] = ()) -> str:
    """The plan as Markdown tables, for plan.md."""
    parts = []
    for level, section in enumerate(sections(plan, forecasts)):
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
        ("augmentation", "augmentation", _turns(made.augmentation)),
        ("previous stage", "previous_stage", made.previous_stage or ""),
    )
    return tuple(Line(label, value, _why(plan, f"configurations.{name}.{field}")) for label, field, value in table if value)


def _turns(plan: AugmentationPlan) -> str:
    return f"turns of up to {max(plan.rotation_degrees):g}° in {plan.rotation_probability:.0%} of the patches"


def _training(plan: Plan) -> tuple[Line, ...]:
    recipe = plan.training
    table = (
        ("epochs", "epochs", f"{recipe.epochs} of {recipe.iterations} iterations"),
        ("time", "seconds", f"{recipe.seconds / 60:g} min per fold" if recipe.seconds else "as long as the epochs take"),
        ("optimiser", "optimizer", f"{recipe.optimizer}, learning rate {recipe.learning_rate:g}, {recipe.schedule}"),
        ("first bias", "first_bias", recipe.first_bias),
        ("averaged weights", "ema_decay", f"decay {recipe.ema_decay:g}" if recipe.ema_decay else "no"),
    )
    return tuple(Line(label, value, _why(plan, f"training.{field}")) for label, field, value in table)


def _forecast(made: Forecast) -> tuple[Line, ...]:
    run, length, cost = made.run, made.length, made.cost
    work = f"{cost.work.flops:.3g} floating-point operations and {bytes_text(cost.moved_bytes)} moved, at {made.speed}"
    ends = "the plan's time ends it" if made.limited else f"{run.steps / length.iterations:.0f} such epochs"
    after = f"then {duration_text(made.cases_seconds)} on held-out cases"
    loop = f"{duration_text(run.seconds)} of training ({ends}; {run.steps} steps), {after}"
    memory = (
        f"a step as traced, {made.at_once} of the batch at once: {cost.parameters / 1e6:.3g} million weights with gradients, "
        f"optimiser and average, {bytes_text(cost.kept_bytes)} kept for the backward pass; the program itself comes on top"
    )
    table = (
        ("a step", duration_text(made.step_seconds), work),
        (
            "an epoch",
            duration_text(run.epoch_seconds),
            f"{length.iterations} steps and {length.validation_iterations} batches of validation",
        ),
        ("a fold", duration_text(made.fold_seconds), loop),
        (
            f"all {made.folds} folds" if made.folds > 1 else "the only fold",
            duration_text(made.folds * made.fold_seconds),
            "one after the other",
        ),
        ("memory", bytes_text(cost.training_bytes), memory),
        ("disk", bytes_text(made.cache_bytes), "prepared cases, in RUN/cache; may be deleted after training"),
    )
    return tuple(Line(*row) for row in table)


def _why(plan: Plan, field: str) -> str:
    """Reasons given for a field or, where there is none, for the nearest thing it is part of."""
    while field:
        if found := [decision.reason for decision in plan.decisions if decision.field == field]:
            return "; ".join(found)
        field = field.rpartition(".")[0]
    return ""


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "none"
