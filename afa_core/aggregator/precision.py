"""An aggregator that computes in another dtype than its weights have, as in training with mixed precision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.func import functional_call

from .sabw import Aggregator, Inputs


class CastAggregator:
    """Does what an Aggregator does, with its weights in `dtype`; gradients reach the weights themselves.

    All weights are cast at once: one kernel, where autocast has one for each of them. The host may have loaded a part
    of them only; here all of them are on `device`.
    """

    def __init__(self, aggregator: Aggregator, dtype: torch.dtype, device: torch.device):
        self.aggregator = aggregator
        names, weights = zip(*aggregator.named_parameters(), strict=True)
        flat = torch.cat([weight.flatten().to(device) for weight in weights]).to(dtype)
        parts = flat.split([weight.numel() for weight in weights])
        self.weights = {n: p.view_as(w) for n, p, w in zip(names, parts, weights, strict=True)}
        self.by_point: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name in (name for name in names if name.startswith("aggregators.")):
            _, index, key = name.split(".", 2)
            self.by_point[index][key] = self.weights[name]

    def __call__(self, time: Tensor, text: Tensor) -> dict[int, Inputs]:
        return functional_call(self.aggregator, self.weights, (time, text))

    def logits(self, index: int, features: Sequence[Tensor | None], inputs: Inputs, stride: int) -> Tensor:
        """As Aggregator.logits: [B, N, H, W] of a fusion point from features [B, C, H, W]."""
        module, own = self.aggregator.point(index), self.by_point[str(index)]
        return cast(Tensor, functional_call(module, own, (features, inputs, stride)))


def fit_for(aggregator: Aggregator, feature: Tensor) -> Aggregator | CastAggregator:
    """An aggregator for features like this one: cast to their dtype, unless it is the coarser one and rounds them itself."""
    finest = torch.promote_types(aggregator.time.weight.dtype, feature.dtype)
    return aggregator if finest == feature.dtype else CastAggregator(aggregator, feature.dtype, feature.device)
