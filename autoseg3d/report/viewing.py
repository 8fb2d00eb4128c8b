"""The viewer in a page: one button per case that opens the scan with its label maps in three planes and in 3D."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from markupsafe import Markup

from autoseg3d.pages import Data, Script, render
from autoseg3d.pictures import COLOURS
from autoseg3d.report.volumes import SmallVolume

HOW_TO_GET = "The 3D viewer is not part of this installation; with npm, `make viewer` adds it."


@dataclass(frozen=True)
class LabelName:
    """A label as it is shown: its value in the label maps, its name and its colour (#RRGGBB)."""

    value: int
    name: str
    colour: str


def named_colours(names: dict[int, str]) -> tuple[LabelName, ...]:
    """Names with the colours that pictures give them: by their place in the table."""
    return tuple(LabelName(value, name, COLOURS[i % len(COLOURS)]) for i, (value, name) in enumerate(names.items()))


@dataclass(frozen=True)
class Viewer:
    """A button that opens the viewer.

    id       of its data in the page: letters and digits
    title    of the case, for those who do not see the picture
    layers   names of the label maps in `volume`, such as ("prediction", "reference")
    """

    id: str
    title: str
    volume: SmallVolume
    layers: Sequence[str]
    labels: Sequence[LabelName]

    @property
    def facts(self) -> str:
        """What the script needs to know, as JSON."""
        labels = [{"value": label.value, "name": label.name, "colour": label.colour} for label in self.labels]
        return json.dumps({"layers": list(self.layers), "labels": labels})

    @property
    def note(self) -> str:
        """How the volume differs from the scan."""
        coarse = " × ".join(str(f) for f in reversed(self.volume.factors))
        return (
            f"Cropped to the labels; each voxel here stands for {coarse} of the scan." if self.volume.reduced else "Cropped to the labels."
        )

    def data(self) -> list[Data]:
        """The files for the page."""
        files = (self.volume.image, *self.volume.layers)
        return [Data(f"{self.id}-{i}", content) for i, content in enumerate(files)]

    def html(self) -> Markup:
        """The button, and the place where the viewer opens."""
        return render("viewer", self, package="autoseg3d.report", template="viewer.html")


def viewer_scripts() -> tuple[Script, ...] | None:
    """NiiVue and what opens it; None where this installation was made without NiiVue (see docs/how-to/report.md)."""
    folder = resources.files("autoseg3d.report").joinpath("viewer")
    if not folder.joinpath("niivue.js").is_file():
        return None
    return tuple(Script(folder.joinpath(name).read_text(encoding="utf-8")) for name in ("niivue.js", "open.js"))
