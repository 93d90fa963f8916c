"""Gradients through blocks that the host wrote for sampling: nothing in place, and activations computed again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from .thread_hooks import hooked


class Rebound(Tensor):
    """A tensor for which `x += y` makes a new tensor, as Python allows: a backward pass may need the old one.

    Whatever is computed from one is one, so that it is enough to make the inputs of a network such tensors.
    """

    __iadd__ = Tensor.__add__
    __imul__ = Tensor.__mul__


@contextmanager
def recomputed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Lets modules keep their inputs alone for a backward pass, which runs them again.

    What `torch.utils.checkpoint` does around a call, for calls that are the host's.
    """
    with ExitStack() as hooks:
        for module in modules:
            call = _Recomputed()
            hooks.enter_context(hooked(module, call.begin, call.end))
        yield


class _Recomputed:
    """One module's call: numbers stand for the tensors that autograd would keep, in the order in which it packs them."""

    def __init__(self) -> None:
        self.packed = 0
        self.values: dict[int, Tensor] = {}

    def begin(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        context = copy_context()  # the second run finds what was set around this expert's turn
        self.again = lambda: context.run(module.forward, *args, **kwargs)
        self.hooks = saved_tensors_hooks(self._pack, self._unpack)
        self.hooks.__enter__()

    def end(self, output: Any) -> None:
        self.hooks.__exit__()

    def _pack(self, tensor: Tensor) -> int:
        self.packed += 1
        return self.packed - 1

    def _unpack(self, number: int) -> Tensor:
        if number not in self.values:
            found: list[Tensor] = []
            keep = saved_tensors_hooks(lambda tensor: found.append(tensor.detach()), lambda kept: kept)
            with torch.enable_grad(), keep:
                self.again()
            self.values = dict(enumerate(found))
        return self.values.pop(number)
