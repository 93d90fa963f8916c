"""MaxFusion: at every position follow the expert whose feature varies the most (Nair et al., ECCV 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .fusion import Feature, Fusion, FusionState, blend, hand_out, logits_of, present
from .points import FusionPoint


@dataclass(frozen=True)
class MaxFusion:
    """The feature with the largest variance over its channels wins its position (arXiv 2404.09977, section 3.2).

    There, two conditions of one network are fused; here, experts are, at every fusion point.
    """

    def bind(self, points: list[FusionPoint], experts: int) -> Fusion:
        return follow_variance


def follow_variance(point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
    """At every place the feature whose channels vary the most there (MaxFusion, arXiv 2404.09977)."""
    there = present(features)
    variances = torch.stack([feature.float().var(dim=1) for feature in there], dim=1)
    winner = F.one_hot(variances.argmax(dim=1), len(there)).movedim(-1, 1)  # of equals the first: model_1
    return hand_out(point, features, *blend(there, logits_of(winner.float())), state)
