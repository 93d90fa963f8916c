"""Top-k: at every position only the k experts that a trained aggregator follows most (after arXiv 2602.02685).

It needs no training, and saves no time: which experts are left out differs from position to position.
"""

from __future__ import annotations

from torch import Tensor

from .fusion import NONE


def largest(logits: Tensor, k: int) -> Tensor:
    """Logits [B, N, H, W] whose softmax shares everything among the k largest; the other shares are exactly 0.

    Equal ones stay together. k: 0 for all
    """
    if not k or k >= logits.shape[1]:
        return logits
    least = logits.topk(k, dim=1).values[:, -1:]
    return logits.masked_fill(logits < least, NONE)
