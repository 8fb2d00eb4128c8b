"""One training step and one inference of a network, played through on tensors without data.

Tensors on torch's meta device have shape and type but no memory. While a step is played on them, every storage is counted
from its birth to its death, so that the peak is that of the real step, whatever the architecture: what autograd keeps, the
gradients that replace it, the loss, and the short-lived results between. Autocast does nothing on the meta device, so its
effect is played too.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from autoseg3d.losses import DeepSupervisionLoss
from autoseg3d.networks import build_empty
from planners.contract import Triple
from planners.labels import Label, LabelTable
from planners.plan import NetworkPlan
from planners.speed import filled

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
# The functions that autocast lowers, on every device, among those that segmentation networks are made of.
_LOWERED = {
    *(getattr(torch, f"conv{kind}{n}d") for kind in ("", "_transpose") for n in (1, 2, 3)),
    *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum, torch.Tensor.matmul, torch.Tensor.__matmul__),
    *(functional.linear, functional.prelu, functional.scaled_dot_product_attention),
}


def _norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, batch: int, channels: int, voxels: int, groups: int, eps: float) -> Any:
    return torch.empty_like(x), *(x.new_empty((batch, groups), dtype=torch.float32) for _ in range(2))


def _norm_backward(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, *sizes: Any) -> Any:
    results = (x, weight, weight)
    return tuple(torch.empty_like(y) if y is not None and wanted else None for y, wanted in zip(results, sizes[-1], strict=True))


def _cat(tensors: list[Tensor], dim: int = 0) -> Tensor:
    shape = list(tensors[0].shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return tensors[0].new_empty(shape, dtype=reduce(torch.promote_types, (tensor.dtype for tensor in tensors)))


# torch works these out on the meta device by dozens of smaller operations, which took most of a trace's time, or imports its
# compiler for them, which takes a second.
_SHORTCUTS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.cat.default: _cat,
    torch.ops.aten.stack.default: lambda tensors, axis=0: _cat([tensor.unsqueeze(axis) for tensor in tensors], axis),
    torch.ops.aten.mean.default: lambda x, dtype=None: x.new_empty((), dtype=dtype),
    torch.ops.aten.native_group_norm.default: _norm,
    torch.ops.aten.native_group_norm_backward.default: _norm_backward,
    torch.ops.aten.leaky_relu_.default: lambda x, *rest: x,
    torch.ops.aten.leaky_relu_backward.default: lambda grad, *rest: torch.empty_like(grad),
    torch.ops.aten._log_softmax.default: lambda x, _, wider: torch.empty_like(x, dtype=torch.float32 if wider else None),
}


def _played(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of an operation on meta tensors, the short way where there is one."""
    if (shortcut := _SHORTCUTS.get(func)) is not None:
        return shortcut(*args, **kwargs)
    if torch.Tag.pointwise not in func.tags or "device" in kwargs:
        return func(*args, **kwargs)
    if func._schema.is_mutable:
        return kwargs.get("out", args[0])
    # One real value tells the type of the result.
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    one_args, one_kwargs = tree_map_only(Tensor, lambda x: torch.ones((1,) * x.ndim, dtype=x.dtype), (args, kwargs))
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))  # type: ignore[no-untyped-call]
    return tree_map_only(Tensor, lambda one: tensors[0].new_empty(shape, dtype=one.dtype), func(*one_args, **one_kwargs))


@dataclass(frozen=True)
class Trace:
    """What was seen, in bytes and operations.

    parameters       number of learned values
    state_bytes      parameters and buffers
    kept_bytes       storages that autograd holds between forward and backward pass, parameters not counted
    step_bytes       peak of all that is made in a training step: kept, gradients, loss and passing results
    inference_bytes  peak of all that is made in a forward pass without gradients
    step_flops       of a training step, with the channels of convolutions filled up as they are computed
    moved_bytes      what the operations of a training step read and write, the optimiser's left out
    forward_flops    of one forward pass; a multiply-add counts two
    """

    parameters: int
    state_bytes: int
    kept_bytes: int
    step_bytes: int
    inference_bytes: int
    step_flops: int
    moved_bytes: int
    forward_flops: int


def trace(
    network: NetworkPlan, *, patch_size: Triple, batch_size: int, in_channels: int, num_classes: int, dtype: torch.dtype, reorder: float
) -> Trace:
    """Builds the network without data and plays one step and one inference.

    Args:
        network, patch_size, batch_size, in_channels, num_classes: what to play.
        dtype: the type that autocast computes in; float32 for none.
        reorder: working memory of a convolution, as a share of the bytes it reads and writes.
    """
    module = build_empty(network, in_channels, num_classes)
    with torch.device("meta"):
        image = torch.empty(batch_size, in_channels, *patch_size)
        target = torch.empty(batch_size, *patch_size, dtype=torch.int16)
    outputs = len(network.stages) - 1 if network.deep_supervision else 1
    loss = DeepSupervisionLoss(class_labels(num_classes), batch_dice=True, num_outputs=outputs)
    state = [*module.parameters(), *module.buffers()]
    with saving(state) as saved_bytes, LiveBytes(state, reorder=reorder) as step:
        with Autocast(dtype):
            logits = module(image)
        kept = saved_bytes()
        cast(Tensor, loss(logits, target)).backward()  # type: ignore[no-untyped-call]
    del logits
    module.eval()
    with torch.no_grad(), LiveBytes(state, reorder=reorder) as inference, Autocast(dtype):
        module(image)
    return Trace(
        parameters=sum(p.numel() for p in module.parameters()),
        state_bytes=sum(tensor.untyped_storage().nbytes() for tensor in state),
        kept_bytes=kept,
        step_bytes=step.peak,
        inference_bytes=inference.peak,
        step_flops=step.filled_flops,
        moved_bytes=step.moved,
        forward_flops=inference.flops,
    )


def class_labels(num_classes: int) -> LabelTable:
    """A table of this many classes, background included."""
    count = max(num_classes - 1, 1)
    return LabelTable(labels=tuple(Label(name=f"class {i}", values=(i,), paint=i) for i in range(1, count + 1)))


@contextmanager
def saving(state: list[Tensor]) -> Iterator[Callable[[], int]]:
    """While it lasts, notes what autograd saves; yields a function that tells the bytes once and forgets what it noted.

    Every storage counts once. Those of `state` (parameters and buffers) are left out: they are there anyway.
    """
    own = {_key(tensor) for tensor in state}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _key(tensor) not in own:
            saved.setdefault(_key(tensor), tensor)
        return tensor

    def told() -> int:
        total = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
        saved.clear()  # or the notes would keep alive what the backward pass sets free
        return total

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield told


class Autocast(TorchFunctionMode):
    """Does on the meta device what autocast does elsewhere: lowers some functions' arguments, weights once per forward pass."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self._weights: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function, with lowered arguments where autocast would lower them."""
        if self.dtype != torch.float32 and func in _LOWERED:
            args, kwargs = tree_map_only(Tensor, self._lowered, (args, kwargs))
        return func(*args, **(kwargs or {}))

    def _lowered(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.dtype == self.dtype:
            return tensor
        if not isinstance(tensor, torch.nn.Parameter):
            return tensor.to(self.dtype)
        if id(tensor) not in self._weights:
            self._weights[id(tensor)] = tensor.to(self.dtype)
        return self._weights[id(tensor)]


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the bytes of all storages that are born while it is active.

    Args:
        state: parameters and buffers, which are not counted.
        reorder: working memory of a convolution, as a share of the bytes it reads and writes.

    Attributes:
        peak: the most bytes that lived at once, convolutions' working memory included.
        flops: floating-point operations so far.
        filled_flops: the same with the channels of convolutions filled up.
        moved: bytes that operations have read and written so far.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled while a step is played; torch would import its compiler for nothing, which takes a second."""
        return False

    def __init__(self, state: list[Tensor], *, reorder: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reorder = reorder
        self.now = self.peak = self.flops = self.filled_flops = self.moved = 0
        self._known = {_key(tensor) for tensor in state}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and counts what it made."""
        kwargs = kwargs or {}
        result = _played(func, args, kwargs)
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            flops = count(*args, **kwargs, out_val=result)
            self.flops += flops
            self.filled_flops += round(flops * _filling(func, args))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        born = sum(self._born(tensor) for tensor in made)
        self.peak = max(self.peak, self.now)
        if born or func._schema.is_mutable:  # else it gave another view of what there was
            moved = sum(_bytes(leaf) for leaf in (*made, *tree_leaves((args, kwargs))) if isinstance(leaf, Tensor))
            self.moved += moved
            if func in _CONVOLUTIONS:
                self.peak = max(self.peak, self.now + int(self.reorder * moved))
        return result

    def _born(self, tensor: Tensor) -> bool:
        """Whether the tensor's storage is new; it is then counted until it dies."""
        key, storage = _key(tensor), tensor.untyped_storage()
        if key in self._known:
            return False
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        weakref.finalize(storage, self._died, key, size)
        return True

    def _died(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _filling(func: Any, args: Any) -> float:
    """How much more a convolution computes than its channels need; 1 for anything else."""
    if func not in _CONVOLUTIONS:
        return 1.0
    first, second = args[1 if func is _CONVOLUTIONS[0] else 2].shape[:2]
    outputs, inputs = (second, first) if args[6 if func is _CONVOLUTIONS[0] else 7] else (first, second)
    return filled(inputs, outputs) / int(inputs * outputs)


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
