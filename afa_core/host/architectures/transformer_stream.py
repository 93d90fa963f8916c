"""The host's transformers as streams: their own forward pass, which pauses behind every block (block_thread.py).

The host gives a patch the place of a block where it has slots for that (`patches_replace["dit"]`); elsewhere hooks of
PyTorch stand around the blocks. No forward pass is written down here, so those of newer hosts run as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...fusion.lockstep import BlockStream
from .block_thread import Pause, paused
from .differentiable import recomputed
from .frames import without_frames
from .thread_hooks import hooked


@dataclass(frozen=True)
class Block:
    """One block of a transformer.

    name:  of its fusion point, "double 3"
    slot:  its key in the host's `patches_replace["dit"]`; None where the host has no such slot
    joint: whether other tokens come before those of the picture in what it gives
    """

    name: str
    module: nn.Module
    slot: tuple[str, int] | None = None
    joint: bool = False


class BlockSkipped(RuntimeError):
    """A network did not run one of its blocks, so that its expert cannot be fused with others there."""

    def __init__(self, block: Block):
        super().__init__(f"The network did not run its block {block.name}.")
        self.block = block.name


@dataclass(frozen=True)
class Pass:
    """One forward pass of a network.

    forward:  runs it
    options:  its transformer options, to write into
    start:    is given, by name, what the first block is called with
    exchange: is given a block, its hidden states of the picture and a pause; gives those that the network goes on with
    """

    forward: Callable[[], Tensor]
    blocks: Sequence[Block]
    options: dict[str, Any]
    start: Callable[[dict[str, Any]], None]
    exchange: Callable[[Block, Tensor, Pause], Tensor]

    def stream(self, device: torch.device, checkpointing: bool) -> BlockStream:
        """Yields what `exchange` hands to its pause, at every block, and last the prediction [B, C, H, W]."""
        prediction = yield from paused(lambda pause: self._run(pause, checkpointing), device)
        yield without_frames(prediction)

    def _run(self, pause: Pause, checkpointing: bool) -> Tensor:
        coming = iter(self.blocks)

        def behind(block: Block, hidden: Tensor) -> Tensor:
            if (expected := next(coming, block)) is not block:
                raise BlockSkipped(expected)
            return self.exchange(block, hidden, pause)

        with ExitStack() as stack:
            if checkpointing:
                stack.enter_context(recomputed(block.module for block in self.blocks))
            stack.enter_context(_visited(self, behind))
            prediction = self.forward()
        if (missing := next(coming, None)) is not None:
            raise BlockSkipped(missing)
        return prediction


@contextmanager
def _visited(run: Pass, behind: Callable[[Block, Tensor], Tensor]) -> Iterator[None]:
    """Calls `behind` with every block and its hidden states as this thread runs it, while the context lasts."""
    replaced = run.options.get("patches_replace", {})
    slots = dict(replaced.get("dit", {}))
    with ExitStack() as hooks:
        for block in run.blocks:
            start = run.start if block is run.blocks[0] else None
            if block.slot:
                slots[block.slot] = _slot_patch(block, slots.get(block.slot), start, behind)
            else:
                hooks.enter_context(_hooked_block(block, start, behind))
        run.options["patches_replace"] = {**replaced, "dit": slots}
        yield


def _slot_patch(block: Block, inner: Callable | None, start: Callable | None, behind: Callable) -> Callable:
    """A replacement for a block that runs it, or the replacement that was in its slot before."""

    def patch(call: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        if start:
            start(call)
        out = inner(call, extra) if inner else extra["original_block"](call)
        return {**out, "img": behind(block, out["img"])}

    return patch


def _hooked_block(block: Block, start: Callable | None, behind: Callable) -> AbstractContextManager:
    def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if start:
            start(inspect.signature(module.forward).bind(*args, **kwargs).arguments)

    return hooked(block.module, before, lambda hidden: behind(block, hidden))
