"""Writes tests/golden/nnunet_plans.json: plans of nnU-Net's rules for four datasets made by hand, to guard against change.

The numbers were compared with those that nnU-Net 2.8.1 is known to answer for these shapes (see test_nnunet_planner.py)
and the rules behind them with 124 plans of nnU-Net itself. Run from the repository root:
PYTHONPATH=.:tests/planners python tests/planners/make_golden.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analytic_cost import analytic_cost
from making import heart, hippocampus, liver, prostate
from nnunet_plans import as_nnunet

from planners.budget import Budget
from planners.contract import readable_json
from planners.nnunet import plan_nnunet, plan_resenc_l, plan_resenc_m, plan_resenc_xl

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "nnunet_plans.json"
DATASETS = {"hippocampus": hippocampus, "liver": liver, "prostate": prostate, "heart": heart}
PLANNERS = {"nnunet": plan_nnunet, "resenc-m": plan_resenc_m, "resenc-l": plan_resenc_l, "resenc-xl": plan_resenc_xl}


def answers() -> dict[str, Any]:
    """Dataset -> planner -> what nnU-Net's plans file would say."""
    found: dict[str, Any] = {}
    for dataset, make in DATASETS.items():
        for planner, plan_by in PLANNERS.items():
            plan = plan_by(make(), Budget(), analytic_cost)
            links = {name: c.previous_stage for name, c in plan.configurations.items() if c.previous_stage}
            plain = {name: as_nnunet(c) for name, c in plan.configurations.items() if name not in links}
            cascades = {name: {"inherits_from": "3d_fullres", "previous_stage": link} for name, link in links.items()}
            found.setdefault(dataset, {})[planner] = {"transpose_forward": list(plan.axis_order), "configurations": plain | cascades}
    return found


if __name__ == "__main__":
    GOLDEN.write_text(readable_json(json.loads(json.dumps(answers()))), encoding="utf-8")
