"""V-Net under the rules of `standard` (network: Milletari, Navab and Ahmadi 2016, arXiv 1606.04797)."""

from __future__ import annotations

from planners.budget import Budget, CostFunction
from planners.families import VNET
from planners.fingerprint import Fingerprint
from planners.overrides import NO_OVERRIDES, Overrides
from planners.plan import Plan
from planners.rungs import ladder
from planners.standard import plan_by_cost, refuse_other_network


def plan_vnet(fingerprint: Fingerprint, budget: Budget, cost: CostFunction, *, overrides: Overrides = NO_OVERRIDES) -> Plan:
    """Kernels of 5, residual stages of 1, 2, 3, 3, … convolutions from 16 features on; depth and patch by the data."""
    refuse_other_network("vnet", VNET, overrides)
    return plan_by_cost("vnet", ladder(VNET, base=overrides.base_features), fingerprint, budget, cost, overrides)
