"""What patches remember from block to block of a forward pass, as the host's ControlNet for Z-Image does.

Experts in lockstep are between two blocks at the same time, and are given the same patch objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

from ...fusion.lockstep import BlockStream
from ..experts.beside import resumed_within


class PatchMemory:
    """The attributes of the patches in an expert's transformer options, as they are now, for this expert to change.

    Copies of the patches would not do: patches refer to one another, and other code to them.
    """

    def __init__(self, options: dict[str, Any]):
        owners = {id(owner): owner for owner in _owners(options)}.values()
        self._own = [(owner, dict(vars(owner))) for owner in owners]

    @contextmanager
    def recalled(self) -> Iterator[None]:
        """The patches have these attributes here, and afterwards again those that they had before."""
        before = [(owner, vars(owner)) for owner, _ in self._own]
        _give(self._own)
        try:
            yield
        finally:
            _give(before)

    def of(self, stream: BlockStream) -> BlockStream:
        """The stream, which recalls them whenever it is resumed."""
        return resumed_within(self.recalled, stream) if self._own else stream


def _owners(options: dict[str, Any]) -> Iterator[Any]:
    """The objects that have what these patches remember."""
    lists = (*options.get("patches", {}).values(), *(d.values() for d in options.get("patches_replace", {}).values()))
    for patches in lists:
        for patch in patches:
            owner = patch.__self__ if isinstance(patch, MethodType) else patch
            if isinstance(getattr(owner, "__dict__", None), dict):
                yield owner


def _give(attributes: list[tuple[Any, dict[str, Any]]]) -> None:
    for owner, own in attributes:
        object.__setattr__(owner, "__dict__", own)  # modules and frozen classes have a __setattr__ of their own
