"""What patches remember from block to block of a forward pass, as the host's ControlNet for Z-Image does.

Experts in lockstep are between two blocks at the same time, and are given the same patch objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

from ...fusion.lockstep import BlockStream
from ..experts.beside import resumed_within


def memories(options: Sequence[dict[str, Any]]) -> list[PatchMemory]:
    """Of experts with these transformer options, one each.

    The first expert that has a patch works on its attributes themselves, so that they last from step to step as with a
    plain model; others that have it begin every evaluation with what they are then.
    """
    found, taken = [], set()
    for each in options:
        owners = {id(owner): owner for owner in _owners(each)}
        found.append(PatchMemory([owner for key, owner in owners.items() if key in taken]))
        taken |= owners.keys()
    return found


class PatchMemory:
    """The attributes of patches as they are now, for one expert to change.

    Copies of the patches would not do: patches refer to one another, and other code to them.
    """

    def __init__(self, owners: list[Any]):
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
