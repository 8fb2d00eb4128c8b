"""The model package: everything a prediction needs in one folder or one file, hashed, with no code in it.

    MODEL/ manifest.json                                sizes and SHA-256 of all other files, folds and their scores
           plan.json  fingerprint.json  card.md
           postprocessing.json  selection.json            where something was chosen after training
           weights/<configuration>/fold_<k>.safetensors   float32; k is a number or "full"

`pack` makes one .a3d file of it (an uncompressed zip). A package is read whole or refused: a changed byte, a missing or
an unknown file, a path that leaves the package, anything compressed. Weights are safetensors; nothing is ever unpickled,
no class is looked up by name. The order of writing makes the manifest the commit: a reader sees a package before or
after a change, also when the writer dies in between.
"""

from autoseg3d.package.manifest import FoldRecord, Manifest
from autoseg3d.package.model import ModelPackage, open_package
from autoseg3d.package.selection import Candidate, Estimate, LabelEstimate, Selection
from autoseg3d.package.writing import add_fold, create_package, pack, set_licence, set_postprocessing

__all__ = [
    "Candidate",
    "Estimate",
    "FoldRecord",
    "LabelEstimate",
    "Manifest",
    "ModelPackage",
    "Selection",
    "add_fold",
    "create_package",
    "open_package",
    "pack",
    "set_licence",
    "set_postprocessing",
]
