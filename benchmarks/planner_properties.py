"""The promises of `standard` over 2,000 seeded random fingerprints of up to 10,000 cases, with the slowest planning times.

Run from the repository root: python benchmarks/planner_properties.py [number]
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent.parent / "tests" / "planners")]

from analytic_cost import CALLS, analytic_cost  # noqa: E402
from properties import budget_for, check_standard  # noqa: E402
from random_fingerprints import random_fingerprint  # noqa: E402

from planners.budget import Budget, PlanningError  # noqa: E402
from planners.nnunet import plan_nnunet  # noqa: E402
from planners.standard import plan_standard  # noqa: E402


def main(number: int = 2000) -> None:
    """Plans `number` random datasets by both planners; raises AssertionError where a promise is broken."""
    outcomes: Counter[str] = Counter()
    slowest = {"standard": (0.0, -1), "nnunet": (0.0, -1)}
    most_traces = 0
    for seed in range(number):
        fingerprint, budget = random_fingerprint(seed, most_cases=60 if seed % 50 else 10_000), budget_for(seed)
        for name in slowest:
            CALLS.clear()
            began = time.perf_counter()
            try:
                if name == "standard":
                    plan = plan_standard(fingerprint, budget, analytic_cost)
                    check_standard(plan, fingerprint, budget)
                else:
                    plan_nnunet(fingerprint, Budget(), analytic_cost)
                outcomes[f"{name}: planned"] += 1
            except PlanningError as error:
                outcomes[f"{name}: refused {error.field}"] += 1
            except Exception:
                sys.stderr.write(f"seed {seed}, {name}:\n")
                raise
            slowest[name] = max(slowest[name], (time.perf_counter() - began, seed))
            most_traces = max(most_traces, len(CALLS))
    for outcome, count in sorted(outcomes.items()):
        sys.stdout.write(f"{outcome}: {count}\n")
    sys.stdout.write(f"slowest (s, seed): {slowest}; most traces of one plan: {most_traces}\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
