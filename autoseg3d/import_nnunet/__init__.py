"""nnU-Net v2 models as model packages: plans, labels and weights are translated once, and predict the same labels after.

Nothing in a foreign file is executed: checkpoints are read with torch's restricted loader, class names in plans are compared
with the few that are known and never looked up, .pkl files are ignored, and archives are unpacked under caps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoseg3d.import_nnunet.importer import import_nnunet

__all__ = ["import_nnunet"]


def __getattr__(name: str) -> Any:
    """`import_nnunet` brings torch with it, so it is loaded when it is first asked for; plans are read without."""
    if name == "import_nnunet":
        from autoseg3d.import_nnunet.importer import import_nnunet

        return import_nnunet
    raise AttributeError(name)
