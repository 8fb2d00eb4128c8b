"""What a network costs: memory of a training step and of inference, floating-point operations, and a machine's speed.

`trace_cost` is the planners' CostFunction: it needs no arithmetic and works for any network that can be built.
`measure_speed` is the short probe behind `Budget.speed`.
"""

from autoseg3d.cost.forecast import trace_cost, training_dtype
from autoseg3d.cost.speed import measure_speed

__all__ = ["measure_speed", "trace_cost", "training_dtype"]
