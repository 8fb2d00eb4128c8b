"""Postprocessing: what is removed from a predicted label map, on the scan's own grid, before it is written."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from planners.contract import Contract
from planners.labels import LabelTable, LabelValue

Values = Annotated[tuple[LabelValue, ...], Field(min_length=1)]


class KeepLargest(Contract):
    """Only the largest 26-connected part of the union of these label values stays; equally large ones all stay."""

    operation: Literal["keep_largest"] = "keep_largest"
    values: Values

    def sentence(self, labels: LabelTable) -> str:
        """What the step does, in words."""
        return f"only the largest connected part of {_named(self.values, labels)} is kept"


class DropSmall(Contract):
    """The 26-connected parts of the union of these label values that are smaller than `minimal_ml` go."""

    operation: Literal["drop_small"] = "drop_small"
    values: Values
    minimal_ml: float = Field(gt=0)

    def sentence(self, labels: LabelTable) -> str:
        """What the step does, in words."""
        return f"parts of {_named(self.values, labels)} smaller than {self.minimal_ml:.3g} mL are removed"


Step = Annotated[KeepLargest | DropSmall, Field(discriminator="operation")]


class Postprocessing(Contract):
    """The postprocessing of one configuration or ensemble: steps in the order of application; what they remove becomes background.

    configurations   names of those whose prediction (fused, where there are several) the steps were chosen for; they are
                     applied to no other. Empty: to any
    reason           where they come from, for the record and the card
    """

    configurations: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    reason: str

    def applies_to(self, configurations: tuple[str, ...]) -> bool:
        """Whether the steps are meant for a prediction of these configurations."""
        return not self.configurations or set(self.configurations) == set(configurations)

    def sentences(self, labels: LabelTable) -> tuple[str, ...]:
        """One sentence per step."""
        return tuple(step.sentence(labels) for step in self.steps)


class PostprocessingTable(Contract):
    """The postprocessing of a model, one entry for each configuration or ensemble that has some (postprocessing.json)."""

    schema_version: Literal[1] = 1
    entries: tuple[Postprocessing, ...] = ()

    def of(self, configurations: tuple[str, ...]) -> Postprocessing | None:
        """What is applied to a prediction of these configurations: the first entry that is meant for it, None without one."""
        return next((entry for entry in self.entries if entry.applies_to(configurations)), None)


def _named(values: tuple[int, ...], labels: LabelTable) -> str:
    """Label values in words: all of them, a label or a region by its name, else names joined."""
    if set(values) == set(labels.values) and len(labels.values) > 1:
        return "all labels together"
    for label in labels.labels:
        if set(label.values) == set(values):
            return label.name
    names = {label.values[0]: label.name for label in labels.labels if len(label.values) == 1}
    return ", ".join(names.get(value, str(value)) for value in values) + (" together" if len(values) > 1 else "")
