"""The report of a batch of predictions: failed and flagged scans on top, then volumes, pictures and how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoseg3d.pages import Block, Cell, Data, Details, Facts, Image, Notice, Page, Section, Table, Text, Tone
from autoseg3d.prediction.findings import LabelFinding
from autoseg3d.prediction.records import ModelRecord
from autoseg3d.report.batch import Segmented
from autoseg3d.report.illustration import Illustration, painted_names
from autoseg3d.report.viewing import Viewer, named_colours, viewer_scripts
from planners.labels import LabelTable

_TONES: dict[str, Tone] = {"failed": "bad", "review": "warn", "done": "plain"}
_WORDS = {"failed": "failed", "review": "check", "done": "done"}


def batch_page(
    cases: Sequence[Segmented],
    labels: LabelTable | None,
    *,
    illustrations: Mapping[str, Illustration],
    notes: Sequence[str] = (),
) -> Page:
    """The page of a batch; `illustrations` are by case, `notes` say what is missing on the page and why."""
    order = sorted(cases, key=lambda case: (list(_TONES).index(case.status), case.case))
    anchors = {case.case: f"c{i}" for i, case in enumerate(order)}
    data: list[Data] = []
    sections = [_attention(order, anchors)]
    if labels is not None:
        sections.append(_volumes(order, labels, anchors))
        sections.append(Section("The scans", [_card(case, labels, illustrations.get(case.case), anchors, data) for case in order]))
        sections.append(_made(order))
    counts = {status: sum(case.status == status for case in cases) for status in _TONES}
    intro: list[Block] = [
        Facts(
            (
                ("scans", str(len(cases))),
                ("segmented", str(counts["done"] + counts["review"])),
                ("to check first", str(counts["review"])),
                ("failed", str(counts["failed"])),
            )
        ),
        Text("A person must look at every segmentation before it is used. A scan without a remark is not thereby right."),
        *(Notice(note, "plain") for note in notes),
    ]
    subtitle = f"{_model_name(cases)}. This page shows scans and their names: keep it as you keep the scans."
    return Page(
        f"Segmentation of {len(cases)} scan{'s' * (len(cases) != 1)}",
        subtitle,
        intro,
        sections,
        data,
        (viewer_scripts() or ()) if data else (),
    )


def _model_name(cases: Sequence[Segmented]) -> str:
    record = next((case.record for case in cases if case.record is not None), None)
    return "No scan was segmented" if record is None else "Model: " + " and ".join(_model(model) for model in record.models)


def _model(model: ModelRecord) -> str:
    return f"{model.dataset_name}, {model.configuration}, fold{'s' * (len(model.folds) > 1)} {', '.join(model.folds)}"


def _attention(cases: Sequence[Segmented], anchors: Mapping[str, str]) -> Section:
    blocks: list[Block] = []
    for case in cases:
        if case.status == "failed":
            blocks.append(Notice(f"{case.case}: not segmented", "bad", (f"{case.cause} ({case.code})",), case.remedy))
        elif case.status == "review":
            reasons = [flag.reason for flag in case.flags]
            remedies = ". ".join(dict.fromkeys(flag.remedy.rstrip(".") for flag in case.flags))
            blocks.append(Notice(case.case, "warn", reasons, remedies, target=anchors[case.case]))
    if not blocks:
        blocks.append(Notice("No scan failed, and none is unlike those the model was made for.", "good"))
    return Section("Look at these first", blocks)


def _volumes(cases: Sequence[Segmented], labels: LabelTable, anchors: Mapping[str, str]) -> Section:
    rows: list[list[str | Cell]] = []
    for case in cases:
        findings = {finding.name: finding for finding in case.record.findings} if case.record is not None else {}
        volumes = [_volume(findings.get(label.name)) for label in labels.labels]
        rows.append([Cell(case.case, target=anchors[case.case]), Cell(_WORDS[case.status], _TONES[case.status]), *volumes])
    lead = "In millilitres, counted from the voxels of each label map."
    if labels.has_regions:
        lead += " Regions may overlap."
    if any(finding.fold_volumes_ml for case in cases if case.record for finding in case.record.findings):
        lead += " In brackets the smallest and the largest volume that a single fold of the model found."
    return Section("Volumes", (Table(("scan", "", *(label.name for label in labels.labels)), rows),), lead=lead)


def _volume(finding: LabelFinding | None) -> str:
    if finding is None:
        return "–"
    span = f" ({_ml(finding.fold_volumes_ml[0])}–{_ml(finding.fold_volumes_ml[1])})" if finding.fold_volumes_ml else ""
    return _ml(finding.volume_ml) + span


def _ml(value: float) -> str:
    """Three figures, and never an exponent."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def _card(case: Segmented, labels: LabelTable, made: Illustration | None, anchors: Mapping[str, str], data: list[Data]) -> Details:
    blocks: list[Block] = [Text(flag.reason) for flag in case.flags]
    if case.cause is not None:
        blocks.append(Text(case.cause))
    if made is not None:
        if made.picture is not None:
            blocks.append(Image(made.picture, f"{case.case} in three planes with the outlines of its labels"))
        if made.fault is not None:
            blocks.append(Text(f"No picture: {made.fault}."))
        if made.volume is not None:
            viewer = Viewer(f"v{anchors[case.case]}", case.case, made.volume, made.layers, named_colours(painted_names(labels)))
            data += viewer.data()
            blocks.append(viewer)
    note = None if case.status == "done" else _WORDS[case.status]
    return Details(case.case, blocks, id=anchors[case.case], note=note, tone=_TONES[case.status], unfolded=made is not None)


def _made(cases: Sequence[Segmented]) -> Section:
    record = next(case.record for case in cases if case.record is not None)
    rows: list[tuple[str, str]] = []
    for model in record.models:
        rows += [("model", _model(model)), ("its SHA-256", model.sha256)]
        if model.missing_folds:
            rows.append(("folds not trained", ", ".join(model.missing_folds)))
    rows += [
        ("computed with", f"{record.precision} on {record.device}, " + ", ".join(f"{k} {v}" for k, v in record.software.items())),
        ("options", ", ".join(f"{name} {value}" for name, value in record.options.items())),
    ]
    return Section("How they were made", (Table(("", "of the first scan; each has its own record beside it"), rows),))
