"""Instance normalisation and leaky ReLU, fast in whichever order a tensor's voxels lie.

On a CPU channels lie together (channels-last): oneDNN's convolutions then need not reorder what goes in and comes out, which makes
most of them 1.1 to 1.6 times as fast, forwards and backwards (docs/decisions/channels-last.md).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

SLOPE = 0.01
EPSILON = 1e-5

_batch_norm_out = torch.ops.aten.native_batch_norm.out
_batch_norm_backward_out = torch.ops.aten.native_batch_norm_backward.out


def channels_last(x: Tensor) -> Tensor:
    """(B, C, Z, Y, X) with channels together in memory, where `x` is on a CPU; elsewhere, and in an export, `x` as it is."""
    if x.device.type != "cpu" or torch.compiler.is_exporting():
        return x
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last_3d)
    # With one channel both orders are the same; only the strides tell torch which one is meant.
    _, _, z, y, w = x.shape
    return x.contiguous().as_strided(x.shape, (z * y * w, 1, y * w, w, 1))


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.01, in place: its backward pass needs its result only, which the next layer keeps anyway."""
    return functional.leaky_relu_(x, SLOPE)


class InstanceNorm(nn.Module):
    """Instance normalisation with learned scale and shift (Ulyanov et al. 2016), eps 1e-5, no running statistics.

    A volume of a single voxel, at which torch's own module raises in training, has no deviation: the result is the shift.
    On a CPU contiguous tensors take group normalisation with one channel per group, which is the same and two to four times
    as fast. For channels-last ones that kernel loses the variance where a channel's mean is far above its deviation (2 % off at
    a ratio of 100), and its backward pass is twenty times slower; they take batch normalisation, sample by sample.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, *, activated: bool = False) -> Tensor:
        """(B, C, Z, Y, X) to the same shape and type, after a leaky ReLU where `activated`; statistics in float32."""
        if x.device.type not in ("cpu", "meta"):
            return self._as_batch(x, activated)
        if x.device.type == "cpu" and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last_3d):
            if torch.is_grad_enabled():
                return cast(Tensor, _ChannelsLastNorm.apply(x, self.weight, self.bias, activated))  # type: ignore[no-untyped-call]
            return _channels_last_norm(x, self.weight, self.bias, activated)[0]
        batch, channels, *sizes = x.shape
        voxels = sizes[0] * sizes[1] * sizes[2]
        y = torch.native_group_norm(x.contiguous(), self.weight, self.bias, batch, channels, voxels, channels, EPSILON)[0]
        return activate(y) if activated else y

    def _as_batch(self, x: Tensor, activated: bool) -> Tensor:
        """Batch normalisation of one sample that has all channels of all samples."""
        batch, channels, *sizes = x.shape
        weight, bias, cudnn = self.weight.repeat(batch), self.bias.repeat(batch), torch.backends.cudnn.enabled
        y = torch.batch_norm(x.reshape(1, batch * channels, *sizes), weight, bias, None, None, True, 0.0, EPSILON, cudnn)
        # Before the view: autograd would copy the gradient of a view that is changed in place.
        return (activate(y) if activated else y).view(x.shape)


def _channels_last_norm(x: Tensor, weight: Tensor, bias: Tensor, activated: bool) -> tuple[Tensor, Tensor]:
    """Every sample of a channels-last batch normalised as a batch of its own; and the samples' means and inverse deviations."""
    y, statistics = torch.empty_like(x), weight.new_empty((2, len(x), len(weight)))
    for sample, out, mean, deviation in zip(torch.split(x, 1), torch.split(y, 1), *statistics, strict=True):
        _batch_norm_out(sample, weight, bias, None, None, True, 0.0, EPSILON, out=out, save_mean=mean, save_invstd=deviation)
    return (activate(y) if activated else y), statistics


class _ChannelsLastNorm(torch.autograd.Function):
    """`_channels_last_norm` with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, activated: bool) -> Tensor:
        y, statistics = _channels_last_norm(x, weight, bias, activated)
        ctx.save_for_backward(x, weight, statistics, y if activated else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, statistics, y = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        if y is not None:
            grad = torch.ops.aten.leaky_relu_backward(grad, y, SLOPE, True)
        of_x, of_weights = torch.empty_like(x), weight.new_empty((2, len(x), len(weight)))
        samples = zip(*(torch.split(tensor, 1) for tensor in (grad, x, of_x)), *statistics, *of_weights, strict=True)
        for given, sample, out, mean, deviation, scale, shift in samples:
            _batch_norm_backward_out(
                given, sample, weight, None, None, mean, deviation, True, EPSILON, [True] * 3, out0=out, out1=scale, out2=shift
            )
        return of_x, *of_weights.sum(dim=1), None
