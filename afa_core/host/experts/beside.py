"""Low-rank weight patches that act beside the weights, so that experts with different LoRAs share one network.

A patched layer computes W x + scale * up(down(x)) instead of (W + scale * up down) x. The hooks that do so hold no
patch themselves: they read which expert runs now, and do nothing where none does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import comfy.ops
import comfy.utils
import torch
from comfy.patcher_extension import PatcherInjection
from comfy.weight_adapter import LoRAAdapter, WeightAdapterBase
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...fusion.lockstep import BlockStream
from .products import KINDS, Product, product_obstacle

Patch: TypeAlias = tuple[float, Any, float, tuple[int, int, int] | None, Any]
"""The host's: strength, what is added, strength of the weight itself, (dim, start, length) of a part, function."""

_CONVOLUTIONS = {1: "Conv1d", 2: "Conv2d", 3: "Conv3d"}


class LowRank(nn.Module):
    """One LoRA on one layer. The host's operations, so that its memory manager may leave them on another device."""

    def __init__(self, down: nn.Module, up: nn.Module, scale: float):
        super().__init__()
        self.down, self.up, self.scale = down, up, scale

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        return output.add_(self.up(self.down(x)), alpha=self.scale)


class LayerHooks:
    """Forward hooks on the layers that some expert of one network patches; attached while the host has it loaded."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        # Clones of a patcher share its injections: those of one network attach them again, those on another GPU beside them.
        self._handles: WeakKeyDictionary[nn.Module, list[RemovableHandle]] = WeakKeyDictionary()

    @property
    def injection(self) -> PatcherInjection:
        return PatcherInjection(inject=self._attach, eject=self._detach)

    def _attach(self, patcher) -> None:
        self._detach(patcher)
        layers = ((name, comfy.utils.get_attr(patcher.model, name)) for name in sorted(self.names))
        self._handles[patcher.model] = [layer.register_forward_hook(self._hook(name)) for name, layer in layers]

    def _detach(self, patcher) -> None:
        for handle in self._handles.pop(patcher.model, ()):
            handle.remove()

    def _hook(self, name: str):
        def add_patches(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            acting = acting_patches()
            if acting is None or acting.hooks is not self:
                return None
            for patch in acting.by_layer.get(name, ()):
                output = patch(inputs[0], output)
            return output

        return add_patches


class PatchesBeside(nn.Module):
    """All patches of one expert that act beside the weights. by_layer: the name of a layer to its patches."""

    def __init__(self, by_layer: dict[str, list[LowRank | Product]], hooks: LayerHooks):
        super().__init__()
        self.by_layer, self.hooks = by_layer, hooks
        self.all = nn.ModuleList(patch for patches in by_layer.values() for patch in patches)
        hooks.names |= by_layer.keys()

    def __deepcopy__(self, memo: dict[int, Any]) -> PatchesBeside:
        """For another GPU: the hooks are of the layers' names, and the same on all."""
        return PatchesBeside(copy.deepcopy(self.by_layer, memo), self.hooks)

    @property
    def scales(self) -> list[tuple[str, float]]:
        """What they are but for their weights: layers and factors, in the order of their application."""
        return [(name, patch.scale) for name, patches in self.by_layer.items() for patch in patches]


_DORA = {LoRAAdapter: 4, **dict.fromkeys(KINDS, -1)}
"""Where adapters of these kinds hold a DoRA's scale, which depends on the weight."""

_ACTING: ContextVar[PatchesBeside | None] = ContextVar("afa_patches_beside", default=None)


def acting_patches() -> PatchesBeside | None:
    """The patches of the expert that runs now."""
    return _ACTING.get()


@contextmanager
def acting(patches: PatchesBeside | None) -> Iterator[None]:
    """These patches act in what is computed here, in this thread and those that are given a copy of its context."""
    token = _ACTING.set(patches)
    try:
        yield
    finally:
        _ACTING.reset(token)


def stream_with(patches: PatchesBeside | None, stream: BlockStream) -> BlockStream:
    """The stream with these patches acting whenever it is resumed, and none of them in between."""
    return stream if patches is None else resumed_within(lambda: acting(patches), stream)


def resumed_within(context: Callable[[], AbstractContextManager], stream: BlockStream) -> BlockStream:
    """The stream, which enters such a context whenever it is resumed."""
    sent = None
    with closing(stream):
        while True:
            with context():
                try:
                    feature = stream.send(sent)
                except StopIteration:
                    return
            sent = yield feature


def obstacle(patch: Patch, layer: nn.Module) -> str | None:
    """What keeps a patch from acting beside this layer; None where it can."""
    _, added, strength_of_weight, part, function = patch
    if strength_of_weight != 1.0:
        return "a merge with another model"
    if type(added) in KINDS:
        return product_obstacle(patch) or (
            None if _shape(layer) else f"a {KINDS[type(added)]} on a {type(layer).__name__}"
        )
    if not isinstance(added, LoRAAdapter):
        return f"a patch of kind {_kind(added)}"
    up, down, _, mid, dora, reshape = added.weights
    if dora is not None:
        return "a DoRA"
    if reshape is not None or function is not None:
        return "a LoRA of a rearranged weight"
    if (shape := _shape(layer)) is None:
        return f"a LoRA on a {type(layer).__name__}"
    rows, columns = shape[0], math.prod(shape[1:])
    if part is not None:
        dim, _, length = part
        rows, columns = (length, columns) if dim == 0 else (rows, columns // shape[1] * length)
    found = up.flatten(1).shape[0], down[0].numel() if mid is None else down.shape[1] * mid[0, 0].numel()
    return None if found == (rows, columns) else f"a LoRA of shape {found[0]} x {found[1]} on {rows} x {columns}"


def changes_weight(patch: Patch) -> bool:
    """Whether what a patch gives depends on the weight that it finds, and so on the patches before it."""
    _, added, strength_of_weight, _, _ = patch
    if strength_of_weight != 1.0:
        return True
    if not isinstance(added, WeightAdapterBase):
        return False
    return type(added) not in _DORA or added.weights[_DORA[type(added)]] is not None


def adding(patch: Patch, layer: nn.Module, dtype: torch.dtype) -> LowRank | Product:
    """A patch without an obstacle, as a module that adds to what the layer gives."""
    strength, added, _, _, _ = patch
    return Product(added, layer, strength, dtype) if type(added) in KINDS else low_rank(patch, layer, dtype)


def low_rank(patch: Patch, layer: nn.Module, dtype: torch.dtype) -> LowRank:
    """A LoRA as a module beside the layer; shares the patch's tensors where they have this dtype."""
    strength, added, _, part, _ = patch
    up, down, alpha, mid, _, _ = added.weights
    shape = _shape(layer)
    assert shape is not None
    up, down = up.flatten(1), (down if mid is None else _without_middle(down, mid)).flatten(1)
    rank = len(down)
    if part is not None:
        up, down = _enlarged(up, down, part, shape)
    scale = strength if alpha is None else strength * alpha / rank
    return LowRank(*_operations(layer, down.reshape(rank, *shape[1:]), up, dtype), scale=scale)


def _kind(added: Any) -> str:
    return getattr(added, "name", None) or (str(added[0]) if len(added) == 2 else "diff")


def _shape(layer: Any) -> tuple[int, ...] | None:
    """Of the weight of a layer, whatever form it is stored in; None where nothing can be added beside it."""
    if hasattr(layer, "out_features"):
        return layer.out_features, layer.in_features
    if hasattr(layer, "kernel_size") and layer.groups == 1:
        return layer.out_channels, layer.in_channels, *layer.kernel_size
    return None


def _without_middle(down: Tensor, mid: Tensor) -> Tensor:
    """A LoCon's 1x1 down [r, in, 1, 1] and middle [r, r, h, w] as one down [r, in, h, w]."""
    return torch.einsum("ri,sr...->si...", down.flatten(1), mid)


def _enlarged(up: Tensor, down: Tensor, part: tuple[int, int, int], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A LoRA on a part of a weight, such as the queries of a joint projection, as one on all of it."""
    dim, start, length = part
    if dim == 0:
        whole = up.new_zeros(shape[0], up.shape[1])
        whole[start : start + length] = up
        return whole, down
    whole = down.new_zeros(len(down), shape[1], math.prod(shape[2:]))
    whole[:, start : start + length] = down.reshape(len(down), length, -1)
    return up, whole.flatten(1)


def _operations(layer: Any, down: Tensor, up: Tensor, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """down [r, in, ...], up [out, r] as operations that take what the layer takes and give what it gives."""
    ops, options = comfy.ops.manual_cast, {"bias": False, "device": "meta", "dtype": dtype}
    rank = len(down)
    if down.ndim == 2:
        first, second = ops.Linear(down.shape[1], rank, **options), ops.Linear(rank, len(up), **options)
    else:
        size = down.ndim - 2
        convolution = getattr(ops, _CONVOLUTIONS[size])
        window = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        first = convolution(down.shape[1], rank, **window, **options)
        second = convolution(rank, len(up), 1, **options)
        up = up.reshape(*up.shape, *[1] * size)
    for operation, weight in ((first, down), (second, up)):
        operation.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    return first, second
