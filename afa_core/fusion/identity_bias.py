"""An identity bias: every expert goes on with a blend of its own, in which its own feature counts for more.

Expert n's attention map is softmax(logits + b one_hot(n)). This is an interpolation between the blend that all experts
share and the expert's own feature, so N maps cost one blend and one interpolation an expert.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RANGE = (-2.0, 16.0)
"""Of the bias. At its upper end an expert's own feature counts alone. Below the lower end the interpolation would reach so far
beyond `fused`, which is rounded, that half precision is not enough."""


def own_blends(features: Sequence[Tensor], fused: Tensor, shares: Tensor, bias: Tensor) -> tuple[list[Tensor], Tensor]:
    """What each of N experts goes on with, N of [B, C, H, W], and the mean of their N attention maps, [B, N, H, W].

    fused: the blend of the features [B, C, H, W] by `shares` [B, N, H, W], the softmax of the logits
    bias:  a scalar; 0 gives `fused` to the bit
    """
    shares = shares.to(torch.promote_types(shares.dtype, torch.float32))
    odds = shares * bias.to(shares).clamp(*RANGE).expm1()
    own = odds / (1 + odds)  # the weights of the interpolations
    gates = own.to(fused.dtype).split(1, dim=1)
    blends = [torch.lerp(fused, feature, gate) for feature, gate in zip(features, gates, strict=True)]
    return blends, shares * (1 - own.mean(1, keepdim=True)) + own / len(features)
