"""Training: from prepared cases to a fold of the model package, in a loop that can be killed anywhere and goes on bit for bit.

`fold.train_fold` is the way in; `session` is one sitting, `loop` its steps and epochs, `engine` the arithmetic of a step,
`loading` the batches, `state` what is saved, `schedule` the time, `splits` the folds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoseg3d.training.options import FoldResult, TrainOptions
from autoseg3d.training.splits import FULL, Split, Splits, make_splits, read_splits, splits_from_nnunet, write_splits

if TYPE_CHECKING:
    from autoseg3d.training.fold import train_fold

__all__ = [
    "FULL",
    "FoldResult",
    "Split",
    "Splits",
    "TrainOptions",
    "make_splits",
    "read_splits",
    "splits_from_nnunet",
    "train_fold",
    "write_splits",
]


def __getattr__(name: str) -> Any:
    """`train_fold` brings torch with it, so it is loaded when it is first asked for."""
    if name == "train_fold":
        from autoseg3d.training.fold import train_fold

        return train_fold
    raise AttributeError(name)
