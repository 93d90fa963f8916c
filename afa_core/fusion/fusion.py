"""Everything that can make one feature of N: SABW, and the training-free rules it is compared with.

A fusion is called at every fusion point with one feature of each expert and gives back what each expert
goes on with: the fused feature, or its own where the fusion leaves this point alone. An expert that was left
out (selection.py) has None for a feature, and goes on with the fused one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..aggregator.sabw import SABW, Aggregator
from .points import FusionPoint

Shares = Tensor | Sequence[float]
"""Each expert's share: a map [B, N, H, W], or one number an expert. They sum to 1 over the experts."""


class FusionError(ValueError):
    """A fusion that does not fit the experts it is asked to fuse."""


@dataclass
class FusionState:
    """What a fusion may know of this evaluation beside the features.

    time:    one time embedding [B, T] an expert, before any activation
    text:    one text state [B, L, D] an expert
    observe: called with (point, shares) wherever features are fused
    """

    time: list[Tensor]
    text: list[Tensor]
    observe: Callable[[FusionPoint, Shares], None] | None = None

    @cached_property
    def mean_time(self) -> Tensor:
        return _mean(self.time)

    @cached_property
    def mean_text(self) -> Tensor:
        return _mean(_same_length(self.text))


Feature = Tensor | None
"""An expert's feature [B, C, H, W]; None where the expert was left out."""


class Fusion(Protocol):
    def __call__(self, point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]: ...


def blend(features: list[Tensor], shares: Shares) -> Tensor:
    """The weighted sum of N features [B, C, H, W], computed in float32 at least, in the dtype of the features.

    Summed as N-1 interpolations, each newcomer against what is there already: that way equal features
    stay what they are to the bit, and so does a feature whose share is 1.
    """
    dtype = features[0].dtype
    full = torch.promote_types(dtype, torch.float32)
    each = shares.to(full).split(1, dim=1) if isinstance(shares, Tensor) else shares
    total = each[0]
    fused = features[0].to(full)
    for feature, share in zip(features[1:], each[1:], strict=True):
        total = total + share
        fused = _towards(fused, feature.to(full), share, total)
    return fused.to(dtype)


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


class CheckpointedFusion:
    """Training: a fusion that keeps the features alone, and is computed again in the backward pass."""

    def __init__(self, fusion: Fusion):
        self.fusion = fusion

    def __call__(self, point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        def run(*features: Feature) -> Sequence[Feature]:
            nonlocal state
            now, state = state, replace(state, observe=None)  # the second run tells nobody
            return self.fusion(point, features, now)

        return checkpoint(run, *features, use_reentrant=False)


STATIC_METHODS = ("block average", "noise average", "last block average")


@dataclass(frozen=True)
class StaticFusion:
    """Fixed shares for every position: the averages of the paper's ablations.

    block average:      at every fusion point (what an untrained aggregator does)
    noise average:      the experts run by themselves, their predictions are averaged
    last block average: as noise average, and the last block reads the average of the features before it
    """

    method: str
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in STATIC_METHODS:
            raise FusionError(f"The method should be one of {', '.join(STATIC_METHODS)}, found {self.method!r:.40}.")
        if self.weights and not (all(math.isfinite(w) and w >= 0 for w in self.weights) and sum(self.weights) > 0):
            raise FusionError(f"The weights should be numbers of 0 or more and not all 0, found {list(self.weights)}.")

    def shares(self, experts: int) -> list[float]:
        """Raises FusionError where there are weights, but not one an expert."""
        weights = self.weights or (1.0,) * experts
        if len(weights) != experts:
            raise FusionError(
                f"The {self.method} has {len(weights)} weights, but {experts} models are connected: "
                "give one weight a model, or leave the weights empty for an equal share."
            )
        return [weight / sum(weights) for weight in weights]

    def bind(self, points: list[FusionPoint], experts: int) -> Fusion:
        shares = self.shares(experts)
        first = {"block average": 0, "noise average": -1, "last block average": -2}[self.method]
        fused = set(points[first:])

        def fusion(point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
            return fuse(point, features, shares, state) if point in fused else features

        return fusion


def fuse(point: FusionPoint, features: Sequence[Feature], shares: Shares, state: FusionState) -> list[Tensor]:
    """The features by their shares, for every expert. An expert that was left out has a share of 0."""
    if state.observe is not None:
        state.observe(point, shares)
    there = present(features)
    if len(there) < len(features):
        shares = torch.as_tensor(shares)[:, there]
    fused = blend([feature for feature in features if feature is not None], shares)
    # A view: one expert's own feature may have come through as it is, and now all of them hold it.
    return [fused.view_as(fused)] * len(features)


def present(features: Sequence[Feature]) -> list[int]:
    """Which experts were not left out."""
    return [index for index, feature in enumerate(features) if feature is not None]


def certain(features: Sequence[Feature]) -> Tensor:
    """Shares [B, N, 1, 1] where only one expert was not left out."""
    ((chosen, feature),) = ((index, feature) for index, feature in enumerate(features) if feature is not None)
    shares = feature.new_zeros(len(feature), len(features), 1, 1, dtype=torch.float32)
    shares[:, chosen] = 1
    return shares


def _towards(there: Tensor, newcomer: Tensor, share: Tensor | float, total: Tensor | float) -> Tensor:
    if isinstance(share, Tensor):
        # A total of 0 is an expert without a share after others without one: 0 of 0 goes nowhere.
        return torch.lerp(there, newcomer, share / torch.as_tensor(total).clamp_min(torch.finfo(torch.float32).tiny))
    return torch.lerp(there, newcomer, share / total if total else 0.0)


def _mean(states: list[Tensor]) -> Tensor:
    first = states[0]
    if all(other is first for other in states):
        return first
    return torch.stack(states).mean(0)


def _same_length(text: list[Tensor]) -> list[Tensor]:
    """Texts [B, L, D] of different lengths, repeated to their least common multiple, as the host does.

    Repeated tokens change nothing for cross-attention.
    """
    length = math.lcm(*(states.shape[1] for states in text))
    return [t if t.shape[1] == length else t.repeat(1, length // t.shape[1], 1) for t in text]
