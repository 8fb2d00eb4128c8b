"""Choosing after training, from out-of-fold predictions: the configuration or ensemble, and what is removed from its output.

parts         CaseParts: the connected parts of one prediction, and the Dice that is left when some of them go
candidates    the steps that are tried
choosing      choose: one round after the other, each candidate against what was chosen before it
estimating    Dice with intervals, for the choice and, nested, for cases it was not made on
out_of_fold   the held-out predictions of a run, alone and fused
selecting     select_run: all of it, written into the run and its model
"""

from autoseg3d.select.choosing import Choice, choose
from autoseg3d.select.parts import CaseParts, measure_parts
from autoseg3d.select.selecting import select_run

__all__ = ["CaseParts", "Choice", "choose", "measure_parts", "select_run"]
