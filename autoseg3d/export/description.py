"""What an exported file says about itself, so that nobody has to guess what goes in and what comes out."""

from __future__ import annotations

import json
from collections.abc import Mapping

import autoseg3d
from autoseg3d.package import ModelPackage

INPUT, OUTPUT = "image", "logits"


def describe(package: ModelPackage, configuration: str, folds: tuple[str, ...]) -> dict[str, str]:
    """Names and JSON texts that go into the file, each name beginning with "autoseg3d."."""
    plan = package.plan
    chosen = plan.configurations[configuration]
    names = tuple(label.name for label in plan.labels.labels)
    facts: Mapping[str, object] = {
        "software": f"autoseg3d {autoseg3d.__version__}",
        "model_sha256": package.sha256,
        "configuration": configuration,
        "folds": folds,
        "plan": plan.model_dump(mode="json"),
        "input": {
            "name": INPUT,
            "axes": ("batch", "channel", "z", "y", "x"),
            "axis_order": plan.axis_order,
            "shape": ("any", plan.in_channels(configuration), *chosen.patch_size),
            "channels": (*plan.channel_names, *(names if chosen.previous_stage else ())),
            "spacing_mm": chosen.spacing_mm,
            "normalization": chosen.normalization,
        },
        "output": {
            "name": OUTPUT,
            "axes": ("batch", "class", "z", "y", "x"),
            "activation": "sigmoid" if plan.labels.has_regions else "softmax",
            "classes": names if plan.labels.has_regions else ("background", *names),
            "label_values": plan.labels.class_paint,
        },
    }
    return {f"autoseg3d.{name}": value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
