"""The other candidate beside an identity bias: one gate a fusion point, x + g (fused - x), as an interpolation.

It is no part of the pack; the comparison with the identity bias decides whether it will be.
"""

from collections.abc import Sequence
from unittest.mock import patch

import torch
from torch import Tensor

from afa_core.fusion.fusion import Feature, Fusion, FusionState
from afa_core.fusion.points import FusionPoint
from afa_core.training.tasks.aggregator import AggregatorTask

OWN = 0.05
"""1 - g at the start: nearly AFA, with a gradient."""


def gated_blends(features: Sequence[Tensor], fused: Tensor, shares: Tensor, bias: Tensor) -> tuple[list[Tensor], Tensor]:
    """As afa_core.fusion.identity_bias.own_blends, with one weight of the own feature for all places."""
    own = (OWN + bias).clamp(0, 1)
    blends = [torch.lerp(fused, feature, own.to(fused.dtype)) for feature in features]
    return blends, shares * (1 - own) + own / len(features)


def gated(inner: Fusion) -> Fusion:
    def fusion(point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        with patch("afa_core.fusion.fusion.own_blends", gated_blends):
            return inner(point, features, state)

    return fusion


class GateTask(AggregatorTask):
    def fusion(self, points=None) -> Fusion:
        return gated(super().fusion(points))
