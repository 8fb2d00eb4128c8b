"""Evaluation: predicted label maps against reference ones, per case and label, with means and their confidence intervals.

rows      ScoreRow: all measures of one case and label
scoring   score_case: the rows of one pair of label maps
summary   summarise: rows to means, medians and bootstrap intervals
scores    Scores: rows, summary and failures, as written to disk
labels    the label table from dataset.json or from the values found
folders   evaluate_folder: two folders of files
output    scores.csv, summary.md, summary.json, scores.json; tables  their lines
compare   two evaluations of the same cases, paired (comparison, comparing, comparison_output)
"""

from autoseg3d.evaluation.comparing import compare
from autoseg3d.evaluation.comparison import CaseDifference, Comparison, PairedDifference, compare_scores
from autoseg3d.evaluation.comparison_output import COMPARISON_COLUMNS, comparison_lines, write_comparison
from autoseg3d.evaluation.folders import evaluate_folder
from autoseg3d.evaluation.labels import find_label_table
from autoseg3d.evaluation.output import read_scores, write_scores
from autoseg3d.evaluation.rows import MEASURES, ScoreRow
from autoseg3d.evaluation.scores import Failure, Scores, collect_scores
from autoseg3d.evaluation.scoring import default_tolerance_mm, score_case
from autoseg3d.evaluation.summary import LabelSummary, MeasureSummary, Summary, summarise

__all__ = [
    "COMPARISON_COLUMNS",
    "MEASURES",
    "CaseDifference",
    "Comparison",
    "Failure",
    "LabelSummary",
    "MeasureSummary",
    "PairedDifference",
    "ScoreRow",
    "Scores",
    "Summary",
    "collect_scores",
    "compare",
    "compare_scores",
    "comparison_lines",
    "default_tolerance_mm",
    "evaluate_folder",
    "find_label_table",
    "read_scores",
    "score_case",
    "summarise",
    "write_comparison",
    "write_scores",
]
