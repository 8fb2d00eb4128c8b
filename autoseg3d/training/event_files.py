"""TensorBoard: the log of a fold as event files, for those who watch many runs in one place. Needs an extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg3d.errors import UsageError
from autoseg3d.training.engine import Engine

_SCALARS = ("loss", "validation_loss", "mean_dice", "ema_dice", "learning_rate", "gradient_norm", "skipped")


class EventFiles:
    """Writes every epoch's numbers into FOLD/tensorboard; shown to the loop as an observer.

    `log` are the epochs before, from a saved state: whatever event files hold beyond them is forgotten. The axis is steps.

    Raises UsageError where the extra is not installed.
    """

    def __init__(self, folder: Path, log: Sequence[Mapping[str, Any]]) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            remedy = "Install it with: pip install 'autoseg3d[tensorboard]', or leave --tensorboard away"
            raise UsageError("the library tensorboardX is not installed", code="E_EXTRA", field="tensorboard", remedy=remedy) from error
        purge = log[-1]["step"] + 1 if log else 0
        self._writer = SummaryWriter(str(folder), purge_step=purge, write_to_disk=True)

    def epoch(self, log: Sequence[Mapping[str, Any]], engine: Engine) -> None:
        """Writes the last record."""
        record = log[-1]
        numbers = {name: record[name] for name in _SCALARS}
        numbers |= {f"dice/{name}": value for name, value in record["dice"].items()}
        numbers |= {"samples_per_second": record["timing"]["samples_per_second"], "memory_bytes": record["timing"]["memory_bytes"]}
        for name, value in numbers.items():
            if value is not None:
                self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def close(self, log: Sequence[Mapping[str, Any]], engine: Engine) -> None:
        """Ends the files."""
        self._writer.close()
