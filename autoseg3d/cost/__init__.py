"""What a network costs: memory of a training step and of inference, floating-point operations, and a machine's speed.

`trace_cost` is the planners' CostFunction: it needs no arithmetic and works for any network that can be built.
`measure_flops_per_second` is the short probe behind `Budget.flops_per_second`.
"""

from autoseg3d.cost.forecast import trace_cost, training_dtype
from autoseg3d.cost.speed import measure_flops_per_second

__all__ = ["measure_flops_per_second", "trace_cost", "training_dtype"]
