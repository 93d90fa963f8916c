"""Drops the fusion points of an aggregator that fuse next to nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from .config import AggregatorConfig

ALONE = 0.995
"""An expert's own weight above which a fusion point is not worth its cost."""


def points_kept(config: AggregatorConfig, state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The fused points, without those whose identity bias gives an expert's own feature more than ALONE.

    Its weight at equal logits decides, so that no picture has to be seen. The device is asked once.
    """
    if not config.biased_points:
        return config.fused_points
    largest = math.log(ALONE / (1 - ALONE) * (config.num_experts - 1))
    biases = torch.stack([state[f"aggregators.{i}.identity_bias"] for i in config.biased_points]).tolist()
    alone = {i for i, bias in zip(config.biased_points, biases, strict=True) if bias > largest}
    return tuple(i for i in config.fused_points if i not in alone)


def pruned(config: AggregatorConfig, state: Mapping[str, Tensor]) -> tuple[AggregatorConfig, dict[str, Tensor]]:
    """The aggregator with the points of `points_kept` alone."""
    kept = points_kept(config, state)
    if kept == config.fused_points:
        return config, dict(state)
    gone = tuple(f"aggregators.{i}." for i in config.fused_points if i not in kept)
    return replace(config, fused=kept), {key: tensor for key, tensor in state.items() if not key.startswith(gone)}
