"""Drives the experts' block streams side by side and lets a fusion decide what they go on with."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack

from torch import Tensor

from .fusion import Feature, Fusion, FusionState
from .points import FusionPoint

BlockStream = Generator[Feature, Feature, None]
"""An expert's forward pass: yields its feature [B, C, H, W] at every fusion point and goes on from what it is sent.

Where the expert is left out it yields None, having computed nothing."""


def lockstep(streams: Sequence[BlockStream], points: list[FusionPoint], fusion: Fusion, state: FusionState) -> Tensor:
    """One evaluation of an ensemble: the fused prediction [B, C, H, W] (AFA figure 2).

    A single stream under a fusion that gives features back is the expert's own forward pass. The streams are closed
    whatever happens: one may run in a thread of its own.
    """
    with ExitStack() as closing:
        for stream in streams:
            closing.callback(stream.close)
        features = [next(stream) for stream in streams]
        for point in points[:-1]:
            inputs = fusion(point, features, state)
            features = [stream.send(x) for stream, x in zip(streams, inputs, strict=True)]
        return next(x for x in fusion(points[-1], features, state) if x is not None)


def absent() -> BlockStream:
    """The stream of an expert that is left out of everything."""
    while True:
        yield None
