"""The program as Python functions, one per command; the command line only parses, calls these and shows what comes back.

    from pathlib import Path
    from autoseg3d import api

    api.plan(Path("raw"), Path("run"))
    api.train(Path("run"), fold="all")
    api.predict(Path("scans"), Path("run"), Path("out"))

All raise the errors of autoseg3d.errors and report to `progress(what, done, total)` where it is given. Torch and the image
libraries are imported by the functions that need them, so that importing this module is quick.
"""

from autoseg3d.api.data import CacheUse, Cleaned, cache, check_report, clean_cache
from autoseg3d.api.judging import compare, select
from autoseg3d.api.planning import (
    Measured,
    Planned,
    PlanWishes,
    Reading,
    check,
    label_table_of,
    measure,
    plan,
    plan_and_forecast,
    plan_fingerprint,
    read_any_fingerprint,
    what_if,
)
from autoseg3d.api.reporting import report
from autoseg3d.api.running import evaluate, export, import_nnunet, info, package, predict, train
from autoseg3d.api.trust import doctor, verify

__all__ = [
    "CacheUse",
    "Cleaned",
    "Measured",
    "PlanWishes",
    "Planned",
    "Reading",
    "cache",
    "check",
    "check_report",
    "clean_cache",
    "compare",
    "doctor",
    "evaluate",
    "export",
    "import_nnunet",
    "info",
    "label_table_of",
    "measure",
    "package",
    "plan",
    "plan_and_forecast",
    "plan_fingerprint",
    "predict",
    "read_any_fingerprint",
    "report",
    "select",
    "train",
    "verify",
    "what_if",
]
