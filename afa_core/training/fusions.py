"""Fusions that only training needs: one that saves memory, one that leaves points out, one that leaves experts out at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..fusion.fusion import Feature, Fusion, FusionState
from ..fusion.points import FusionPoint
from ..fusion.sabw_fusion import attend


def checkpointed(*inputs: Any) -> tuple[Tensor, Tensor]:
    """As `attend` of a SABWFusion: keeps the features alone, and computes the point again in the backward pass."""
    return cast(tuple[Tensor, Tensor], checkpoint(attend, *inputs, use_reentrant=False, preserve_rng_state=False))


class OnlyPoints:
    """A fusion that leaves all but these fusion points alone."""

    def __init__(self, fusion: Fusion, points: tuple[int, ...]):
        self.fusion = fusion
        self.points = points

    def __call__(self, point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        return self.fusion(point, features, state) if point.index in self.points else features


class ExpertDropout:
    """Training: a fusion that leaves experts out at random, so that the aggregator is trained on those that are left.

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
        kept = [None if gone else feature for gone, feature in zip(lost, features, strict=True)]
        inputs = self.fusion(point, kept, state)
        # Where nothing is fused, nothing takes the place of a feature that was lost.
        return [own if x is None else x for x, own in zip(inputs, features, strict=True)]
