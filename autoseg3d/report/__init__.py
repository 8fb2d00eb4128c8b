"""Reports that people look at: one HTML file for a training run, or for a batch of predictions.

making        make_report: what the folder is, and its page
run_page      the page of a run; folds, glance, learning, suspicion and hints gather what it says
batch_page    the page of a batch; batch likewise; calibration  of saved probabilities
illustration  pictures and small volumes of cases, drawn in worker processes; volumes  cropping and coarsening
health        the page of a dataset that was checked; histogram  its bars
viewing       the embedded 3D viewer (NiiVue, put into viewer/ when the package is built)
"""

from autoseg3d.report.health import write_health
from autoseg3d.report.making import make_report
from autoseg3d.report.suspicion import Suspect, suspects

__all__ = ["Suspect", "make_report", "suspects", "write_health"]
