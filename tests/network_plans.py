"""Small stage tables that networks, losses and costs are tested on."""

from collections.abc import Sequence

from planners.contract import Triple
from planners.plan import NetworkPlan, Stage


def network_plan(
    architecture: str,
    features: Sequence[int],
    *,
    strides: Sequence[Triple] | None = None,
    kernels: Sequence[Triple] | None = None,
    blocks: Sequence[int] | None = None,
    decoder_blocks: Sequence[int] | None = None,
    deep_supervision: bool = True,
) -> NetworkPlan:
    """A stage table; by default isotropic halving, 3×3×3 kernels and two blocks everywhere."""
    count = len(features)
    strides = strides or [(1, 1, 1)] + [(2, 2, 2)] * (count - 1)
    kernels = kernels or [(3, 3, 3)] * count
    stages = [
        Stage(features=f, kernel=k, stride=s, blocks=b)
        for f, k, s, b in zip(features, kernels, strides, blocks or [2] * count, strict=True)
    ]
    return NetworkPlan(
        architecture=architecture,
        stages=tuple(stages),
        decoder_blocks=tuple(decoder_blocks or [2] * (count - 1)),
        deep_supervision=deep_supervision,
    )


def kinds(architecture: str) -> dict[str, tuple[Triple, NetworkPlan]]:
    """Kinds of plans by name, each with a patch that fits it."""
    flat, plane = (1, 2, 2), (1, 3, 3)
    return {
        "isotropic": ((8, 8, 8), network_plan(architecture, [4, 6, 8])),
        "anisotropic": (
            (4, 16, 16),
            network_plan(
                architecture,
                [4, 6, 8, 8],
                strides=[(1, 1, 1), flat, flat, (2, 2, 2)],
                kernels=[plane, plane, (3, 3, 3), (3, 3, 3)],
            ),
        ),
        "2d": ((1, 16, 16), network_plan(architecture, [4, 6, 8], strides=[(1, 1, 1), flat, flat], kernels=[plane] * 3)),
        "two stages": ((4, 6, 8), network_plan(architecture, [4, 6], blocks=[1, 3], decoder_blocks=[1])),
        "six stages": ((32, 32, 32), network_plan(architecture, [2, 3, 4, 4, 4, 4], blocks=[1, 2, 2, 2, 2, 2])),
        "single output": ((8, 8, 8), network_plan(architecture, [4, 6, 8], deep_supervision=False)),
    }
