"""Averages with fixed shares, which need no training: the rows of the paper's ablations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from .fusion import Feature, Fusion, FusionError, FusionState, fuse, logits_of, present
from .points import FusionPoint

STATIC_METHODS = ("block average", "noise average", "last block average")


@dataclass(frozen=True)
class StaticFusion:
    """Fixed shares for every position: the averages of the paper's ablations.

    block average:      at every fusion point (what an untrained aggregator does)
    noise average:      the experts run by themselves, their predictions are averaged
    last block average: as noise average, and the last block reads the average of the features before it
    """

    method: str
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in STATIC_METHODS:
            raise FusionError(f"The method should be one of {', '.join(STATIC_METHODS)}, found {self.method!r:.40}.")
        if self.weights and not (all(math.isfinite(w) and w >= 0 for w in self.weights) and sum(self.weights) > 0):
            raise FusionError(f"The weights should be numbers of 0 or more and not all 0, found {list(self.weights)}.")

    def shares(self, experts: int) -> list[float]:
        """Raises FusionError where there are weights, but not one an expert."""
        weights = self.weights or (1.0,) * experts
        if len(weights) != experts:
            raise FusionError(
                f"The {self.method} has {len(weights)} weights, but {experts} models are connected: "
                "give one weight a model, decimals with a point as in 0.5, or leave the weights empty for an equal share."
            )
        return [weight / sum(weights) for weight in weights]

    def bind(self, points: list[FusionPoint], experts: int) -> Fusion:
        """Raises FusionError where there are weights, but not one an expert."""
        logits = logits_of(torch.tensor(self.shares(experts)).view(1, -1, 1, 1))
        first = {"block average": 0, "noise average": -1, "last block average": -2}[self.method]
        fused = set(points[first:])
        on = cache(logits.to)  # several GPUs have a thread each

        def fusion(point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
            if point not in fused:
                return features
            return fuse(point, features, on(present(features)[0].device), state)

        return fusion
