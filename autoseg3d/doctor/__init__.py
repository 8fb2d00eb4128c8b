"""The doctor: whether this installation on this machine will do what it should, in plain words.

golden      a scan and a model whose right answer is known
prediction  that model on that scan, the whole way
machine     memory, disk, write rights, clock, processes, devices
"""

from autoseg3d.doctor.findings import Finding, Verdict, worst
from autoseg3d.doctor.machine import examine_machine
from autoseg3d.doctor.prediction import examine_prediction

__all__ = ["Finding", "Verdict", "examine_machine", "examine_prediction", "worst"]
