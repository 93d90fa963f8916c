"""Top-k: at every position only the k experts that a trained aggregator follows most (after arXiv 2602.02685)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from ..aggregator.precision import CastAggregator
from ..aggregator.sabw import Aggregator, Inputs
from .fusion import NONE, Feature, blend, of_present, present
from .sabw_fusion import SABWFusion


class TopKFusion(SABWFusion):
    """A trained aggregator whose maps keep their k largest shares at every position, scaled to a sum of 1.

    Experts of equal shares stay together. It needs no training, and saves no time: who is left out differs from
    position to position.
    """

    def __init__(self, aggregator: Aggregator, k: int):
        super().__init__(aggregator, partial(_attend, k))
        self.k = k


def largest(logits: Tensor, k: int) -> Tensor:
    """Logits [B, N, H, W] whose softmax shares everything among the k largest; the other shares are exactly 0."""
    if k >= logits.shape[1]:
        return logits
    least = logits.topk(k, dim=1).values[:, -1:]
    return logits.masked_fill(logits < least, NONE)


def _attend(
    k: int,
    aggregator: Aggregator | CastAggregator,
    index: int,
    stride: int,
    features: Sequence[Feature],
    inputs: Inputs,
) -> tuple[Tensor, Tensor]:
    logits = of_present(features, aggregator.logits(index, features, inputs, stride))
    return blend(present(features), largest(logits, k))
