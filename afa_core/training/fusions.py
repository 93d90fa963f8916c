"""Fusions that only training needs: one that saves memory, one that leaves experts out at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.utils.checkpoint import checkpoint

from ..fusion.fusion import Feature, Fusion, FusionState
from ..fusion.points import FusionPoint


class CheckpointedFusion:
    """Training: a fusion that keeps the features alone, and is computed again in the backward pass."""

    def __init__(self, fusion: Fusion):
        self.fusion = fusion

    def __call__(self, point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        def run(*features: Feature) -> Sequence[Feature]:
            nonlocal state
            now, state = state, replace(state, observe=None)  # the second run tells nobody
            return self.fusion(point, features, now)

        return checkpoint(run, *features, use_reentrant=False)


class ExpertDropout:
    """Training: a fusion that loses experts at random, so that the aggregator learns to do without.

    At every fusion point each expert is lost with probability `rate`, but never all of them, and at the
    prediction two stay, so that there is always a decision to learn from.
    """

    def __init__(self, fusion: Fusion, rate: float, random: torch.Generator):
        self.fusion = fusion
        self.rate = rate
        self.random = random

    def __call__(self, point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        chances = torch.rand(len(features), generator=self.random)
        lost = chances < self.rate
        lost[chances.topk(2 if point.is_prediction else 1).indices] = False
        return self.fusion(point, [None if gone else f for gone, f in zip(lost, features, strict=True)], state)
