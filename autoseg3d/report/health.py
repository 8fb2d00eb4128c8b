"""The health page of a dataset: its faults, what is unusual in it, how sizes, volumes and intensities lie, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoseg3d.errors import Autoseg3dError
from autoseg3d.fingerprinting import Observation, Survey
from autoseg3d.io import CaseFiles, GeometryChoice
from autoseg3d.io.dataset import Dataset
from autoseg3d.pages import Block, Details, Facts, Gallery, Image, Notice, Page, Section, Table, Text, write_page
from autoseg3d.report.histogram import Histogram
from autoseg3d.report.illustration import Illustration, Progress, Subject, illustrate
from planners.fingerprint import LabelObservation
from planners.labels import LabelTable

_MOST_PICTURES, _USUAL_PICTURES, _PICTURES_PER_FINDING = 30, 8, 4
_MOST_ROWS = 1000
# The largest volume is this many times the smallest: equal steps on the axis would hide the small ones.
_WIDE = 20.0


def write_health(
    out: Path,
    survey: Survey,
    dataset: Dataset,
    *,
    geometry: GeometryChoice = "auto",
    workers: int = 1,
    progress: Progress | None = None,
) -> None:
    """Writes the health page of a dataset to the HTML file `out`, whole or not at all. Cases with findings are drawn first.

    `geometry` is the choice the survey was made with. Raises StorageError.
    """
    files = {case.id: case for case in dataset.cases}
    shown = _shown(survey)
    subjects = [subject for case in shown if (subject := _subject(files[case], dataset.labels, geometry)) is not None]
    pictures = illustrate(subjects, workers=workers, progress=progress)
    write_page(out, health_page(survey, dataset, pictures, shown))


def _subject(files: CaseFiles, labels: LabelTable, geometry: GeometryChoice) -> Subject | None:
    if files.label is None:
        return None
    return Subject(id=files.id, files=files, prediction=files.label, reference=None, labels=labels, geometry=geometry)


def _shown(survey: Survey) -> list[str]:
    """Cases to draw: the first few of every finding, then some from the whole range of the others."""
    odd = dict.fromkeys(case for finding in survey.findings for case in finding.cases[:_PICTURES_PER_FINDING])
    others = [seen.case.id for seen in survey.observations if seen.case.id not in odd]
    spread = sorted({round(i) for i in np.linspace(0, len(others) - 1, _USUAL_PICTURES)}) if others else []
    return [*list(odd)[: _MOST_PICTURES - _USUAL_PICTURES], *(others[i] for i in spread)]


def health_page(survey: Survey, dataset: Dataset, pictures: dict[str, Illustration], shown: Sequence[str]) -> Page:
    """The page; `shown` names the cases that have a part of their own, in order."""
    anchors = {case: f"case{i}" for i, case in enumerate(shown)}
    sections = [
        *(
            [Section("Faults", [_faults(survey.faults)], "Planning stops until these are mended or their cases left out.")]
            * bool(survey.faults)
        ),
        Section("Worth a look", _findings(survey, dataset, anchors), "None of these stops planning; each may be right as it is."),
    ]
    if survey.observations:
        sections += [
            Section("Scans", [Gallery(_scan_charts(survey.observations, dataset.channel_names))]),
            Section(
                "Labels", [_label_table(survey.observations, dataset.labels), Gallery(_label_charts(survey.observations, dataset.labels))]
            ),
            Section(
                "Pictures", _cards(survey, dataset.labels, pictures, anchors), "Cases named above come first, then some of the others."
            ),
            Section("All cases", [_case_table(survey.observations)]),
        ]
    subtitle = f"{dataset.name}. This page shows scans and their names: keep it as you keep the scans."
    return Page("Dataset health", subtitle, _verdict(survey, dataset), sections)


def _verdict(survey: Survey, dataset: Dataset) -> list[Block]:
    facts = (
        ("cases that can be read", str(len(survey.observations))),
        ("faults", str(len(survey.faults))),
        ("worth a look", str(len(survey.warnings))),
        ("channels", ", ".join(dataset.channel_names)),
        ("labels", str(len(dataset.labels.labels))),
    )
    if survey.faults:
        verdict = Notice(f"{_count(len(survey.faults), 'fault')}: nothing can be planned yet", "bad", target=_id_of("Faults"))
    elif survey.warnings:
        verdict = Notice(f"Can be planned; {_count(len(survey.warnings), 'thing')} worth a look", "warn", target=_id_of("Worth a look"))
    else:
        verdict = Notice("Can be planned; nothing unusual was found", "good")
    return [verdict, Facts(facts)]


def _id_of(title: str) -> str:
    return Section(title, ()).id


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _faults(faults: Sequence[Autoseg3dError]) -> Table:
    rows = [
        (
            fault.case or "whole dataset",
            f"{fault.what}{f' (wanted {fault.wanted})' if fault.wanted is not None else ''}",
            "" if fault.got is None else str(fault.got),
            Path(fault.file).name if fault.file is not None else "",
            fault.remedy or "",
            fault.code,
        )
        for fault in faults
    ]
    return Table(("case", "what is wrong", "found", "file", "what to do", "code"), rows)


def _findings(survey: Survey, dataset: Dataset, anchors: dict[str, str]) -> list[Block]:
    notices: list[Block] = [Notice(warning, "plain") for warning in dataset.warnings]
    for finding in survey.findings:
        target = next((anchors[case] for case in finding.cases if case in anchors), None)
        notices.append(Notice(f"{finding.kind[0].upper()}{finding.kind[1:]}", "warn", reasons=(finding.text,), target=target))
    return notices or [Text("Nothing unusual was found: no copies, no constant images, no label of odd size or place.")]


def _scan_charts(observations: Sequence[Observation], channels: Sequence[str]) -> list[Block]:
    spacing = np.array([seen.case.spacing_mm for seen in observations])
    shape = np.array([seen.case.shape for seen in observations])
    names = ("between slices as stored (z)", "along y", "along x")
    charts: list[Block] = [Histogram(f"Distance of voxels {name}", spacing[:, i].tolist(), "mm") for i, name in enumerate(names)]
    charts += [Histogram(f"Number of voxels along {axis}", shape[:, i].tolist()) for i, axis in enumerate("zyx")]
    voxels = shape.prod(axis=1) / 1e6
    charts.append(Histogram("Size", voxels.tolist(), "million voxels", logarithmic=bool(voxels.max() > _WIDE * voxels.min())))
    for i, name in enumerate(channels):
        medians = [sketch.quantile(0.5) for seen in observations if (sketch := seen.intensities[i]) is not None]
        if medians:
            charts.append(Histogram(f"Median intensity inside the labels: {name}", medians))
    return charts


def _label_charts(observations: Sequence[Observation], labels: LabelTable) -> list[Block]:
    charts: list[Block] = []
    for label in labels.labels:
        volumes = [seen.volume_ml for seen in _present(observations, label.name)]
        if volumes:
            charts.append(Histogram(f"Volume of {label.name}", volumes, "mL", logarithmic=max(volumes) > _WIDE * min(volumes)))
    return charts


def _present(observations: Sequence[Observation], label: str) -> list[LabelObservation]:
    return [seen.case.labels[label] for seen in observations if seen.case.labels[label].voxels]


def _label_table(observations: Sequence[Observation], labels: LabelTable) -> Table:
    rows = []
    for label in labels.labels:
        present = _present(observations, label.name)
        volumes = np.array([seen.volume_ml for seen in present])
        parts = [seen.components for seen in present if seen.components is not None]
        rows.append(
            (
                label.name,
                ", ".join(map(str, label.values)),
                str(len(present)),
                *((f"{np.median(volumes):.4g}", f"{volumes.min():.4g}", f"{volumes.max():.4g}") if present else ("–",) * 3),
                f"{np.median(parts):.3g}" if parts else "–",
                str(sum(seen.touches_border for seen in present)),
            )
        )
    heads = ("label", "values", "cases", "median mL", "least mL", "most mL", "parts (median)", "cut by the border")
    return Table(heads, rows)


def _cards(survey: Survey, labels: LabelTable, pictures: dict[str, Illustration], anchors: dict[str, str]) -> list[Block]:
    by_case = {seen.case.id: seen for seen in survey.observations}
    cards: list[Block] = []
    for case, anchor in anchors.items():
        reasons = [finding.text for finding in survey.findings if case in finding.cases]
        blocks: list[Block] = [*(Notice(reason, "warn") for reason in reasons), *_picture(case, pictures.get(case))]
        blocks.append(Text(", ".join(_described(by_case[case], labels)), quiet=True))
        cards.append(Details(case, blocks, id=anchor, tone="warn" if reasons else "plain", unfolded=True))
    return cards


def _picture(case: str, made: Illustration | None) -> list[Block]:
    if made is None or made.picture is None:
        return [Notice("no picture" + (f": {made.fault}" if made is not None and made.fault else ""), "plain")]
    return [Image(made.picture, f"{case} in three planes, labels outlined")]


def _described(seen: Observation, labels: LabelTable) -> list[str]:
    case = seen.case
    volumes = [f"{label.name} {case.labels[label.name].volume_ml:.3g} mL" for label in labels.labels]
    return [_times(case.shape) + " voxels", _times(case.spacing_mm) + " mm", case.orientation or "", *volumes]


def _times(zyx: Sequence[float]) -> str:
    return " × ".join(f"{value:.4g}" for value in reversed(zyx))


def _case_table(observations: Sequence[Observation]) -> Details:
    rows = [
        (
            seen.case.id,
            _times(seen.case.shape),
            _times(seen.case.spacing_mm),
            seen.case.orientation or "",
            str(sum(bool(label.voxels) for label in seen.case.labels.values())),
            "; ".join(seen.notes),
        )
        for seen in observations[:_MOST_ROWS]
    ]
    left = f", {len(observations) - _MOST_ROWS} more are left out" if len(observations) > _MOST_ROWS else ""
    return Details(
        f"{_count(len(rows), 'case')}{left}", [Table(("case", "voxels", "spacing mm", "orientation", "labels", "while reading"), rows)]
    )
