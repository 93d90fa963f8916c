"""What makes one feature of N: the protocol of a fusion, and the blend that all fusions share.

A fusion is called at every fusion point with one feature of each expert and gives back what each expert
goes on with: the fused feature, or its own where the fusion leaves this point alone. An expert that was left
out (selection.py) has None for a feature, and goes on with the fused one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from .points import FusionPoint

SMALLEST = torch.finfo(torch.float32).tiny


class FusionError(ValueError):
    """A fusion that does not fit the experts it is asked to fuse."""


@dataclass
class Embeddings:
    """What one expert's network makes of timestep and prompt, known once its stream has yielded.

    time: [B, T], before any activation
    text: [B, L, D]
    """

    time: Tensor | None = None
    text: Tensor | None = None


@dataclass
class FusionState:
    """What a fusion may know of this evaluation beside the features.

    embeddings: one an expert
    observe:    called with (point, shares) wherever features are fused; shares [B, N, H, W] sum to 1 over the
                experts, and are [1, N, 1, 1] where they are the same everywhere
    """

    embeddings: Sequence[Embeddings]
    observe: Callable[[FusionPoint, Tensor], None] | None = None

    @cached_property
    def mean_time(self) -> Tensor:
        return _mean([own.time for own in self.embeddings if own.time is not None])

    @cached_property
    def mean_text(self) -> Tensor:
        return _mean(_same_length([own.text for own in self.embeddings if own.text is not None]))


Feature = Tensor | None
"""An expert's feature [B, C, H, W]; None where the expert was left out."""


class Fusion(Protocol):
    def __call__(self, point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]: ...


def blend(features: list[Tensor], shares: Tensor) -> Tensor:
    """The weighted sum of N features [B, C, H, W], computed in float32 at least, in the dtype of the features.

    shares: anything that broadcasts to [B, N, H, W]

    Summed as N-1 interpolations, each newcomer against what is there already: that way equal features
    stay what they are to the bit, and so does a feature whose share is 1.
    """
    dtype = features[0].dtype
    full = torch.promote_types(dtype, torch.float32)
    # A total of 0 is an expert without a share after others without one: 0 of 0 goes nowhere.
    steps = shares.to(full) / shares.to(full).cumsum(1).clamp_min(SMALLEST)
    fused = features[0].to(full)
    for feature, step in zip(features[1:], steps.split(1, dim=1)[1:], strict=True):
        fused = torch.lerp(fused, feature.to(full), step)
    return fused.to(dtype)


def fuse(point: FusionPoint, features: Sequence[Feature], shares: Tensor, state: FusionState) -> list[Tensor]:
    """The features by their shares, for every expert. An expert that was left out has a share of 0."""
    if state.observe is not None:
        state.observe(point, shares)
    there = present(features)
    if len(there) < len(features):
        shares = torch.cat([shares[:, index : index + 1] for index in there], dim=1)  # an index tensor would be a copy
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
