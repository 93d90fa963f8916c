"""Drops the fusion points of an aggregator that fuse next to nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .config import AggregatorConfig

ALONE = 0.995
"""An expert's own weight above which a fusion point is not worth its cost."""


def identity_biases(config: AggregatorConfig, state: Mapping[str, Tensor]) -> list[Tensor]:
    """A scalar of every point that has one."""
    return [state[f"aggregators.{i}.identity_bias"] for i in config.biased_points]


def points_fused(config: AggregatorConfig, biases: Sequence[float]) -> tuple[int, ...]:
    """The fused points, without those whose identity bias gives an expert's own feature more than ALONE.

    Its weight at equal logits decides, so that no picture has to be seen. biases: of all points that have one, or of none
    """
    if not biases:
        return config.fused_points
    largest = math.log(ALONE / (1 - ALONE) * (config.num_experts - 1))
    alone = {i for i, bias in zip(config.biased_points, biases, strict=True) if bias > largest}
    return tuple(i for i in config.fused_points if i not in alone)


def points_kept(config: AggregatorConfig, state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """As points_fused, by the weights. They are read from the device once."""
    biases = identity_biases(config, state)
    return points_fused(config, torch.stack(biases).tolist() if biases else [])


def pruned(config: AggregatorConfig, state: Mapping[str, Tensor]) -> tuple[AggregatorConfig, dict[str, Tensor]]:
    """The aggregator with the points of `points_kept` alone."""
    kept = points_kept(config, state)
    if kept == config.fused_points:
        return config, dict(state)
    gone = tuple(f"aggregators.{i}." for i in config.fused_points if i not in kept)
    return replace(config, fused=kept), {key: tensor for key, tensor in state.items() if not key.startswith(gone)}
