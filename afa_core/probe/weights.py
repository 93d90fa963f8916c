"""The best fixed weights at every noise level, from the errors' products alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .measure import interval, quadratic, simplex_minimum

STRENGTHS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 1e6)
"""By how much the weights are drawn to equal shares; the last one gives equal shares."""


def level_weights(grams: Tensor, seed: int = 0) -> dict[str, Any]:
    """The weights of a probe's grams [I, L, K, K], and what they gain over equal shares on pictures that they do not come from.

    Gives {"weights": [L][K], "strength", "gain", "low", "high"}: a picture's loss is that of the weights that the other
    pictures give; the interval is the bootstrap's over pictures, of 95 %.
    """
    pictures, levels, experts = grams.shape[:3]
    equal = torch.full((levels, experts), 1 / experts, dtype=grams.dtype)
    if pictures == 1:
        return {"weights": equal.tolist(), "strength": STRENGTHS[-1], "gain": 0.0, "low": 0.0, "high": 0.0}
    baseline = quadratic(grams, equal)
    scale = baseline.mean(0)  # every level counts alike
    others = (grams.sum(0) - grams) / (pictures - 1)
    losses = {strength: quadratic(grams, regularised(others, strength)) / scale for strength in STRENGTHS}
    strength = min(STRENGTHS, key=lambda strength: losses[strength].mean().item())
    found, expected = losses[strength].mean(1), (baseline / scale).mean(1)
    low, high = interval(found, expected, seed)
    return {
        "weights": regularised(grams.mean(0), strength).tolist(),
        "strength": strength,
        "gain": (1 - found.mean() / expected.mean()).item(),
        "low": low,
        "high": high,
    }


def regularised(grams: Tensor, strength: float) -> Tensor:
    """Weights [..., K], none negative and of sum 1, with the least w' G w + strength d |w - 1/K|^2.

    d: half the mean squared distance of two experts' errors. Between experts that differ by independent errors of one
    size, a strength of 1 halves the way from equal shares to the best weights.
    """
    experts = grams.shape[-1]
    norms = grams.diagonal(dim1=-2, dim2=-1)
    distances = norms[..., :, None] + norms[..., None, :] - 2 * grams
    distance = distances.sum((-2, -1)) / (2 * experts * (experts - 1))
    # For weights of sum 1 the penalty is that of a ridge.
    ridge = strength * distance[..., None, None] * torch.eye(experts, dtype=grams.dtype)
    return simplex_minimum(grams + ridge)
