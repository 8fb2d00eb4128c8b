"""nnU-Net v2 models as model packages: plans, labels and weights are translated once, and predict the same labels after.

Nothing in a foreign file is executed: checkpoints are read with torch's restricted loader, class names in plans are compared
with the few that are known and never looked up, .pkl files are ignored, and archives are unpacked under caps.
"""

from autoseg3d.import_nnunet.importer import import_nnunet

__all__ = ["import_nnunet"]
