"""Hooks around a module that see the calls of one thread: another may run the same module for another expert."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread
from typing import Any

from torch import nn

Before = Callable[[nn.Module, tuple, dict[str, Any]], None]
Behind = Callable[[Any], Any]


@contextmanager
def hooked(module: nn.Module, before: Before, behind: Behind) -> Iterator[None]:
    """Calls `before` with a module and its arguments, and `behind` with what it gives; None from that changes nothing."""
    thread = current_thread()

    def pre_hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if current_thread() is thread:
            before(module, args, kwargs)

    def hook(module: nn.Module, args: tuple, output: Any) -> Any:
        return behind(output) if current_thread() is thread else None

    # What was hooked first is nested in what was hooked later.
    first = module.register_forward_pre_hook(pre_hook, with_kwargs=True, prepend=True)
    with first, module.register_forward_hook(hook):
        yield
