"""The rows that windows still reach into: a weighted mean in the making."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from autoseg3d.sliding_window.windows import WindowOptions, axis_starts, gaussian, half_precision_weights
from planners.contract import Triple

# Numbers from a half up to one lie 2**-24 apart in float32, so that adding and taking away this one rounds small ones to
# multiples of 2**-24, which is what half precision does to its smallest; those that it holds better lose next to nothing.
_ROUNDING = 0.75


class RollingBuffer:
    """The patch[0] rows of axis 0 from `first` on, and rows [rows[0], rows[1]) of axis 1, of (channels, Z, Y, X)."""

    def __init__(self, padded: Triple, options: WindowOptions, *, channels: int, rows: tuple[int, int]) -> None:
        self.first = 0
        self._patch, self._band = options.patch, rows
        device = options.accumulate_on or options.device
        self._buffer = torch.zeros((channels, options.patch[0], rows[1] - rows[0], padded[2]), device=device)

    def place(self, start: Triple) -> tuple[Tensor, slice]:
        """The part of the buffer that a window covers, and the rows of the window's axis 1 that lie in it."""
        z, y, x = start
        begin, end = max(y, self._band[0]), min(y + self._patch[1], self._band[1])
        depth = slice(z - self.first, z - self.first + self._patch[0])
        return self._buffer[:, depth, begin - self._band[0] : end - self._band[0], x : x + self._patch[2]], slice(begin - y, end - y)

    def rows(self, begin: int, end: int) -> Tensor:
        """A view of rows [begin, end) of axis 0."""
        return self._buffer[:, begin - self.first : end - self.first]

    def advance(self, first: int) -> None:
        """Lets go of all rows before `first`: the rest moves to the front, block by block so that none overlap."""
        shift, height = first - self.first, self._buffer.shape[1]
        for row in range(0, height - shift, shift):
            end = min(row + shift, height - shift)
            self._buffer[:, row:end] = self._buffer[:, row + shift : end + shift]
        self._buffer[:, max(height - shift, 0) :] = 0
        self.first = first


class Mean:
    """The mean over windows, each weighted by its share of all weights at a voxel: what is added up is the mean."""

    def __init__(self, padded: Triple, options: WindowOptions, *, channels: int, rows: tuple[int, int], scale: float) -> None:
        self._sums = RollingBuffer(padded, options, channels=channels, rows=rows)
        device = options.accumulate_on or options.device
        self._shares = [_shares(n, p, options.step, device=device) for n, p in zip(padded, options.patch, strict=True)]
        self._shares[0] = {start: share * scale for start, share in self._shares[0].items()}

    @property
    def first(self) -> int:
        """The first row of axis 0 that is held."""
        return self._sums.first

    def add(self, start: Triple, output: Tensor) -> None:
        """Adds a window's output (channels, *patch)."""
        target, inside = self._sums.place(start)
        share_z, share_y, share_x = (shares[s] for shares, s in zip(self._shares, start, strict=True))
        target.addcmul_(output[:, :, inside], share_z[:, None, None] * share_y[inside, None] * share_x)

    def take(self, begin: int, end: int) -> Tensor:
        """A view of the finished rows [begin, end) of axis 0; each may be taken once."""
        return self._sums.rows(begin, end)

    def advance(self, first: int) -> None:
        """Lets go of all rows before `first`."""
        self._sums.advance(first)


class HalfPrecisionMean:
    """The mean over windows as nnU-Net makes it: weights in float16, where those of a window's corners all but vanish.

    There a weighted logit is a small multiple of the smallest float16, 2**-24, and the mean a quotient of small integers: at the
    edges of a scan probabilities are off by up to a few hundredths. That is repeated here, since an imported model shall
    answer as it does in nnU-Net; what else float16 rounds changes probabilities by less than 0.002 and is not.
    """

    def __init__(self, padded: Triple, options: WindowOptions, *, channels: int, rows: tuple[int, int], scale: float) -> None:
        self._sums = RollingBuffer(padded, options, channels=channels, rows=rows)
        self._totals = RollingBuffer(padded, options, channels=1, rows=rows)
        self._weight = half_precision_weights(options.patch).to(options.accumulate_on or options.device)
        self._scaled = self._weight * scale

    @property
    def first(self) -> int:
        """The first row of axis 0 that is held."""
        return self._sums.first

    def add(self, start: Triple, output: Tensor) -> None:
        """Adds a window's output (channels, *patch)."""
        target, inside = self._sums.place(start)
        target += (output[:, :, inside] * self._scaled[:, inside]).add_(_ROUNDING).sub_(_ROUNDING)
        total, inside = self._totals.place(start)
        total += self._weight[:, inside]

    def take(self, begin: int, end: int) -> Tensor:
        """A view of the finished rows [begin, end) of axis 0; each may be taken once."""
        return self._sums.rows(begin, end).div_(self._totals.rows(begin, end))

    def advance(self, first: int) -> None:
        """Lets go of all rows before `first`."""
        self._sums.advance(first)
        self._totals.advance(first)


def _shares(size: int, patch: int, step: float, *, device: torch.device) -> dict[int, Tensor]:
    """For each window along one axis, its share of all windows' weights at each of its voxels, float32."""
    weight, starts = gaussian(patch), axis_starts(size, patch, step)
    total = np.zeros(size)
    for start in starts:
        total[start : start + patch] += weight
    return {start: torch.from_numpy((weight / total[start : start + patch]).astype(np.float32)).to(device) for start in starts}
