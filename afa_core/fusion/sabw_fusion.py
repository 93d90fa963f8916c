"""AFA's fusion: a trained aggregator gives every expert an attention map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ..aggregator.sabw import SABW, Aggregator
from .fusion import Feature, FusionState, certain, fuse, present
from .points import FusionPoint


class SABWFusion:
    """AFA: a trained aggregator decides at every position which expert to follow (AFA equation 5)."""

    def __init__(self, aggregator: Aggregator):
        self.aggregator = aggregator

    def __call__(self, point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        if point.index not in self.aggregator.config.fused_points:
            return features
        if len(present(features)) == 1:
            return fuse(point, features, certain(features), state)
        sabw = cast(SABW, self.aggregator.aggregators[str(point.index)])
        dtype = sabw.conv_in.weight.dtype
        inputs = [feature if feature is None else feature.to(dtype) for feature in features]
        shares = sabw(inputs, state.mean_time.to(dtype), state.mean_text.to(dtype), point.stride)
        return fuse(point, features, shares, state)
