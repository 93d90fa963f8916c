"""LoHa and LoKr beside a layer: products of small matrices, in the arithmetic of the host's bypass mode.

The host's own hooks of that mode (comfy/weight_adapter/bypass.py) replace a layer's forward for all clones alike. Here
its adapters' `h` is called from the hooks of beside.py instead, for the expert that runs now. Hosts before that mode
have no `h`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.weight_adapter
import torch
from comfy.weight_adapter import LoHaAdapter, LoKrAdapter
from torch import Tensor, nn

KINDS = {LoHaAdapter: "LoHa", LoKrAdapter: "LoKr"}
_Hook = getattr(comfy.weight_adapter, "BypassForwardHook", None)


class Product(nn.Module):
    """One LoHa or LoKr on one layer. Its tensors are parameters, so that the host's memory manager counts and moves them."""

    def __init__(self, adapter: Any, layer: nn.Module, strength: float, dtype: torch.dtype):
        super().__init__()
        weights = _checked(adapter.weights, layer) if isinstance(adapter, LoKrAdapter) else adapter.weights
        self.scale = strength
        self.rest: list[float | None] = []
        for place, weight in enumerate(weights):
            self.rest.append(None if isinstance(weight, Tensor) else weight)
            if isinstance(weight, Tensor):
                self.register_parameter(f"weight_{place}", nn.Parameter(weight.to(dtype), requires_grad=False))
        # The host's hook notes on its adapter how the layer convolves; unlike it, nothing here is shared by clones.
        self.adapter = type(adapter)(adapter.loaded_keys, ())
        assert _Hook is not None
        _Hook(layer, self.adapter, strength)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        self.adapter.weights = tuple(getattr(self, f"weight_{place}", other) for place, other in enumerate(self.rest))
        return output.add_(self.adapter.h(x, output))


def product_obstacle(patch: Sequence[Any]) -> str | None:
    """What keeps a LoHa or LoKr from acting beside its layer; None where it can."""
    _, adapter, _, part, function = patch
    if _Hook is None:
        return f"a {KINDS[type(adapter)]}, on a ComfyUI without bypass mode,"
    if adapter.weights[-1] is not None:
        return "a DoRA"
    return f"a {KINDS[type(adapter)]} of a part of a weight" if part or function else None


def _checked(weights: Sequence[Any], layer: Any) -> tuple[Any, ...]:
    """A LoKr's weights in the two forms in which the host's `h` gives what its merged weights give.

    Both factors whole, or the second as a product, w2_a [out, r] and w2_b [r, in, ...]; the first scaled by its rank
    where the second is whole. In other forms `h` scales by the wrong rank, or finds a window that is flat or transposed.
    """
    w1, w2, alpha, w1_a, w1_b, w2_a, w2_b, t2, _ = weights
    rank = None
    if w1 is None:
        w1, rank = w1_a.float() @ w1_b.float(), len(w1_b)
    if t2 is not None:
        w2, rank = torch.einsum("ij...,jr,ip->pr...", t2.float(), w2_b.float(), w2_a.float()), len(w2_b)
    window = getattr(layer, "kernel_size", ())
    if w2 is None:
        return w1, None, alpha, None, None, w2_a, w2_b.reshape(len(w2_b), -1, *window), None, None
    if rank is not None and alpha is not None:
        w1 = w1 * (alpha / rank)
    return w1, w2.reshape(len(w2), -1, *window), *[None] * 7
