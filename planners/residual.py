"""The residual-encoder U-Net under the rules of `standard` (network: Isensee et al. 2024, arXiv 2404.09556)."""

from __future__ import annotations

from planners.budget import Budget, CostFunction
from planners.families import RESENC
from planners.fingerprint import Fingerprint
from planners.overrides import NO_OVERRIDES, Overrides
from planners.plan import Plan
from planners.rungs import ladder
from planners.standard import plan_by_cost, refuse_other_network


def plan_residual(fingerprint: Fingerprint, budget: Budget, cost: CostFunction, *, overrides: Overrides = NO_OVERRIDES) -> Plan:
    """Canonical orientation, traced memory, the 5 % rule and the time budget, with a residual encoder at every size."""
    refuse_other_network("residual", RESENC, overrides)
    return plan_by_cost("residual", ladder(RESENC, base=overrides.base_features), fingerprint, budget, cost, overrides)
