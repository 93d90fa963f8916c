"""AFA's fusion: a trained aggregator gives every expert an attention map."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..aggregator.precision import CastAggregator, fit_for
from ..aggregator.sabw import Aggregator, Inputs
from .fusion import Feature, FusionState, blend, fuse, hand_out, of_one_dtype, of_present, present
from .points import FusionPoint
from .top_k import largest

Attend = Callable[[Aggregator | CastAggregator, FusionPoint, Sequence[Feature], Inputs, int], tuple[Tensor, Tensor]]


def attend(
    aggregator: Aggregator | CastAggregator,
    point: FusionPoint,
    features: Sequence[Feature],
    inputs: Inputs,
    top_k: int = 0,
) -> tuple[Tensor, Tensor]:
    """One fusion point: the fused feature [B, C, H, W] and the present experts' shares [B, N, H, W]."""
    logits = of_present(features, aggregator.logits(point.index, features, inputs, point.stride))
    return blend(present(features), largest(logits, top_k))


class SABWFusion:
    """AFA: a trained aggregator decides at every position which expert to follow (AFA equation 5).

    attend: computes one fusion point as the function of that name does, such as that function compiled
    top_k:  how many experts are followed at a position; 0 for all
    """

    def __init__(self, aggregator: Aggregator, attend: Attend = attend, top_k: int = 0):
        self.aggregator = aggregator
        self.attend = attend
        self.top_k = top_k

    def __call__(self, point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        if point.index not in self.aggregator.config.fused_points:
            return features
        features = of_one_dtype(features)
        there = present(features)
        if len(there) == 1:
            return fuse(point, features, there[0].new_zeros(1, len(features), 1, 1), state)
        aggregator, inputs = state.once(self, lambda: self._prepared(there[0], state))
        fused, shares = self.attend(aggregator, point, features, inputs[point.index], self.top_k)
        return hand_out(point, features, fused, shares, state, self.aggregator.identity_bias(point.index))

    def _prepared(self, first: Tensor, state: FusionState) -> tuple[Aggregator | CastAggregator, dict[int, Inputs]]:
        """What is the same at all points of one evaluation, at the first of which `first` is a feature."""
        aggregator = fit_for(self.aggregator, first)
        return aggregator, aggregator(state.mean_time, state.mean_text)
