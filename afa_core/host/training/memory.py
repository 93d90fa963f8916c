"""What training an aggregator needs of a device beside the experts: kept activations, gradients, Adam's moments."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...aggregator.config import AggregatorConfig
from ...fusion.points import FusionPoint
from .frozen_experts import HostExperts

FLOAT32 = 4


def aggregator_memory(experts: HostExperts, config: AggregatorConfig, latent_shape: Sequence[int]) -> float:
    """Bytes for a batch of latents [B, C, H, W]; the aggregator's weights are on the device already."""
    each = [_values(experts.points[index], config) for index in config.fused_points]
    kept = max(each) if experts.checkpointing else sum(each)
    positions = latent_shape[0] * latent_shape[-2] * latent_shape[-1]
    weights = sum(math.prod(shape) for _, shape in config.shapes())
    return kept * positions * experts.compute_dtype.itemsize + weights * trained_bytes(experts)


def trained_bytes(experts: HostExperts) -> int:
    """Bytes beside each trained float32 weight: its gradient, two moments, a copy in the experts' dtype."""
    return 3 * FLOAT32 + experts.compute_dtype.itemsize


def _values(point: FusionPoint, config: AggregatorConfig) -> float:
    """Kept for each position of a latent: the experts' features, their concatenation and float32 blend, and about
    12 widths of the residual block and its surroundings, 30 of a transformer layer."""
    values = 4 * config.num_experts * point.channels + (12 + 30 * config.num_layers) * config.hidden_size
    return values / point.stride**2
