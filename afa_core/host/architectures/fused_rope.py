"""A backward pass for an operation of newer hosts that has none: norm and rotation of Cosmos' and Anima's queries and keys.

Without it no gradient goes through these networks, neither the host's own trainer's nor ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

OPERATION = "comfy_kitchen::rms_rope_split_half"


def make_differentiable() -> None:
    """Registers the gradient where the host has the operation, by its own reference implementation."""
    try:
        from comfy_kitchen.backends.eager.rope import rms_rope_split_half as reference
    except ImportError:
        return
    torch.library.register_autograd(OPERATION, _backward(reference), setup_context=_keep)


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.places = [isinstance(value, Tensor) for value in inputs]
    ctx.others = [value for value in inputs if not isinstance(value, Tensor)]


def _backward(reference: Callable) -> Callable:
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        tensors, others = iter(ctx.saved_tensors), iter(ctx.others)
        q, k, *rest = (next(tensors if place else others) for place in ctx.places)
        with torch.enable_grad():
            own = [each.detach().requires_grad_() for each in (q, k)]
            found = torch.autograd.grad(reference(*own, *rest), own, gradients)
        return (*found, *[None] * len(rest))

    return backward
