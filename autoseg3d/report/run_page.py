"""The report of a training run: what came out, which labels to look at again, and how everything was chosen."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg3d.evaluation import Scores
from autoseg3d.evaluation.tables import CALIBRATION_COLUMNS, DETAILED_COLUMNS, calibration_lines, detailed_lines, interval, number
from autoseg3d.pages import Block, Cell, Data, Details, DotChart, DotRow, Facts, Image, Notice, Page, Section, Table, Text
from autoseg3d.report.folds import Fold, Validated
from autoseg3d.report.glance import dataset_section
from autoseg3d.report.illustration import Illustration, painted_names
from autoseg3d.report.learning import learning_section
from autoseg3d.report.suspicion import Suspect
from autoseg3d.report.viewing import Viewer, named_colours, viewer_scripts
from planners.fingerprint import Fingerprint
from planners.plan import Plan
from planners.readable import sections

_SHOWN_LABELS = 40


def run_page(
    plan: Plan,
    fingerprint: Fingerprint,
    folds: Sequence[Fold],
    found: Sequence[Validated],
    *,
    ranked: Sequence[Suspect],
    worst: Sequence[str],
    illustrations: dict[str, Illustration],
    note: str | None = None,
) -> Page:
    """The page of a run.

    Args:
        found: the configurations with held-out cases; pictures and suspects are of the first.
        ranked: cases to look at again, most suspicious first; `worst`: the lowest, lowest first.
        illustrations: of these cases, by id.
        note: why pictures are missing, where they are.
    """
    cards = _Cards(plan, illustrations)
    parts: list[Section] = []
    if found:
        parts += [_scores(found), _suspects(ranked, cards), _worst(worst, found[0].scores, cards), *_calibration(found)]
    if folds:
        parts.append(learning_section(folds))
    parts += [dataset_section(fingerprint), _plan(plan)]
    intro: list[Block] = [_summary(fingerprint, folds, found)]
    if not found:
        intro.append(Notice("No held-out case is scored yet", "warn", remedy="Train a fold to its end: autoseg3d train RUN --fold 0"))
    if note is not None:
        intro.append(Notice(note, "warn"))
    subtitle = "Training report. It shows scans and names of cases: keep it as you keep those."
    return Page(plan.dataset_name, subtitle, intro, parts, cards.data, (viewer_scripts() or ()) if cards.data else ())


def _summary(fingerprint: Fingerprint, folds: Sequence[Fold], found: Sequence[Validated]) -> Facts:
    pairs = [("training cases", str(len(fingerprint.cases))), ("labels", str(len(fingerprint.labels.labels)))]
    for one in found:
        dice = one.scores.summary.foreground["dice"]
        pairs.append((f"mean Dice, {one.configuration}", f"{number(dice.mean, 3)} ({interval(dice)})"))
        pairs.append(("of held-out cases", f"{len(one.predictions)} in fold{'s' * (len(one.folds) > 1)} {', '.join(one.folds)}"))
    seconds = sum(record.get("timing", {}).get("seconds", 0.0) for fold in folds for record in fold.log)
    if folds:
        pairs.append(("training time", f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"))
    return Facts(pairs)


def _scores(found: Sequence[Validated]) -> Section:
    blocks: list[Block] = []
    for one in found:
        blocks.append(
            Table(DETAILED_COLUMNS, detailed_lines(one.scores.summary), caption=f"{one.configuration}, {len(one.predictions)} cases")
        )
        blocks.append(_dots(one.scores))
        if one.scores.failures:
            blocks.append(Notice(f"Not scored: {len(one.scores.failures)}", "warn", one.scores.failure_lines()))
    summary = found[0].scores.summary
    lead = (
        "Every case was predicted by a model that never saw it. The interval says where the mean would lie for another draw of "
        f"such cases ({summary.confidence:.0%}, bootstrap over cases). A scan from elsewhere may do worse."
    )
    return Section("Scores", blocks, lead=lead)


def _dots(scores: Scores) -> DotChart:
    rows = []
    for label in scores.summary.labels[:_SHOWN_LABELS]:
        values = [row.dice for row in scores.rows if row.label_name == label.label_name and row.dice is not None]
        dice = label.measures["dice"]
        rows.append(DotRow(label.label_name, values, dice.mean, dice.low, dice.high))
    return DotChart("Dice of each case (dots), mean and its interval (lines)", rows)


class _Cards:
    """Cases with their pictures, each drawn once on the page however often it is spoken of."""

    def __init__(self, plan: Plan, illustrations: dict[str, Illustration]) -> None:
        self.data: list[Data] = []
        self._names = named_colours(painted_names(plan.labels))
        self._illustrations = illustrations
        self._shown: dict[str, str] = {}

    def link(self, case: str) -> Cell:
        """The name of a case, leading to where it is shown."""
        return Cell(case, target=self._shown[case])

    def card(self, case: str, note: str) -> Details | None:
        """The case, to be unfolded; None where it stands on the page already."""
        if case in self._shown:
            return None
        self._shown[case] = f"c{len(self._shown)}"
        made = self._illustrations.get(case)
        blocks: list[Block] = []
        if made is not None:
            blocks += [Text(f"{hint}.") for hint in made.hints]
            if made.picture is not None:
                alt = f"{case} in three planes, reference and prediction outlined"
                blocks.append(Image(made.picture, alt))
            if made.fault is not None:
                blocks.append(Text(f"No picture: {made.fault}."))
            if made.volume is not None:
                viewer = Viewer(f"v{len(self._shown)}", case, made.volume, made.layers, self._names)
                self.data += viewer.data()
                blocks.append(viewer)
        return Details(case, blocks, id=self._shown[case], note=note, unfolded=len(self._shown) <= 1)


def _suspects(ranked: Sequence[Suspect], cards: _Cards) -> Section:
    drawn = [cards.card(suspect.case, f"{suspect.label}: Dice {suspect.dice:.3f}") for suspect in ranked]
    rows = [
        (cards.link(suspect.case), suspect.label, f"{suspect.dice:.3f}", f"{suspect.usual_dice:.3f}", f"{suspect.score:.1f}")
        for suspect in ranked
    ]
    lead = (
        "The model that never saw these cases disagrees with their labels more than it usually does. Some are hard; some are "
        "labelled wrongly. A wrong label teaches wrong things and lowers the scores: look at these first, in this order."
    )
    table = Table(("case", "label", "Dice", "usual Dice", "how unusual"), rows)
    return Section("Labels to look at again", (table, *(card for card in drawn if card is not None)), lead=lead)


def _worst(worst: Sequence[str], scores: Scores, cards: _Cards) -> Section:
    dices = scores.case_dice()
    drawn = [cards.card(case, f"mean Dice {dices[case]:.3f}") for case in worst]
    rows = [(cards.link(case), f"{dices[case]:.3f}", *_lowest(scores, case)) for case in worst]
    table = Table(("case", "mean Dice", "lowest label", "its Dice", "HD95 (mm)"), rows)
    lead = "By mean Dice over their labels. In the pictures the planes meet where the error is densest."
    return Section(f"The {len(worst)} lowest cases", (table, *(card for card in drawn if card is not None)), lead=lead)


def _lowest(scores: Scores, case: str) -> tuple[str, str, str]:
    """The label of a case with the lowest Dice, that Dice, and its surface distance."""
    row = min((row for row in scores.rows if row.case == case and row.dice is not None), key=lambda row: row.value("dice"))
    return row.label_name, f"{row.value('dice'):.3f}", f"{row.value('hd95_mm'):.1f}"


def _calibration(found: Sequence[Validated]) -> list[Section]:
    """How honest the probabilities are, where any were saved."""
    tables = [
        Table(CALIBRATION_COLUMNS, lines, caption=one.configuration) for one in found if (lines := calibration_lines(one.scores.summary))
    ]
    lead = (
        "Brier score and expected calibration error of each label's probability, near the label: 0 is best. An error of 0.05 says "
        "that a stated probability is off by five points on average."
    )
    return [Section("Calibration", tables, lead=lead)] if tables else []


def _plan(plan: Plan) -> Section:
    blocks: list[Block] = []
    for section in sections(plan):
        rows = [(line.name, Cell(line.value), line.reason) for line in section.lines]
        blocks.append(Details(section.title, (Table(("", "chosen", "because"), rows),), unfolded=not blocks))
    return Section(
        "The plan, and why", blocks, lead="Every number was chosen by a rule from the dataset and the machine; plan.json holds all of them."
    )
