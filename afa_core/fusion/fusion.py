"""What makes one feature of N: the protocol of a fusion, and the blend that all fusions share.

A fusion is called at every fusion point with one feature of each expert and gives back what each expert
goes on with: the fused feature, or its own where the fusion leaves this point alone. An expert that was left
out (selection.py) has None for a feature, and goes on with the fused one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from .identity_bias import own_blends
from .points import FusionPoint

NONE = -1e4
"""A logit that comes to a share of exactly 0 beside any other, in every dtype."""


class FusionError(ValueError):
    """A fusion that does not fit its experts."""


@dataclass
class Embeddings:
    """What one expert's network makes of timestep and prompt, known once its stream has yielded.

    time: [B, T], before any activation
    text: [B, L, D]
    """

    time: Tensor | None = None
    text: Tensor | None = None


Observe = Callable[[FusionPoint, Tensor], None]
"""Called with a fusion point and the shares there, [B, N, H, W] or [1, N, 1, 1]."""


@dataclass
class FusionState:
    """What a fusion may use of this evaluation beside the features.

    embeddings: one an expert
    observe:    called with (point, shares) wherever features are fused; shares [B, N, H, W] sum to 1 over the
                experts, and are [1, N, 1, 1] where they are the same everywhere; where experts have attention maps of
                their own (identity_bias.py), their mean
    level:      the noise level [B] as a fraction 0..1 of what training draws from, where it is known
    keep:       called as `observe` is, with the softmax of the logits where experts have attention maps of their own
    memory:     what fusions have computed for all points of this evaluation
    """

    embeddings: Sequence[Embeddings]
    observe: Observe | None = None
    level: Tensor | None = None
    keep: Observe | None = None
    memory: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made at the first point of this evaluation that needs it."""
        if key not in self.memory:
            self.memory[key] = make()
        return self.memory[key]

    @cached_property
    def mean_time(self) -> Tensor:
        """[B, T]."""
        return _mean([own.time for own in self.embeddings if own.time is not None])

    @cached_property
    def mean_text(self) -> Tensor:
        """[B, L, D], shorter texts repeated."""
        return _mean(at_one_length([own.text for own in self.embeddings if own.text is not None]))


Feature = Tensor | None
"""An expert's feature [B, C, H, W]; None where the expert was left out."""


class Fusion(Protocol):
    def __call__(self, point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]: ...


class FusionRule(Protocol):
    """What makes a fusion without training."""

    def bind(self, points: list[FusionPoint], experts: int) -> Fusion:
        """The fusion of so many experts at these points. Raises FusionError where it does not fit them."""
        ...


def blend(features: Sequence[Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted sum of N features [B, C, H, W], and the weights: the experts' shares [B, N, H, W].

    logits: their softmax over the experts are the shares; anything that broadcasts to [B, N, H, W]

    Summed as N-1 interpolations, each newcomer by its share among those there so far: that way equal features stay
    what they are to the bit, and so does a feature whose share is 1. Each is computed in float32 at least and rounded
    to the features' dtype, as every operation of the experts is.
    """
    if len(features) == 1:
        return features[0], torch.ones_like(logits)
    fused, shares = features[0], logits
    for count, feature in enumerate(features[1:], start=2):
        shares = logits[:, :count].softmax(1)
        fused = torch.lerp(fused, feature, shares[:, -1:].to(fused.dtype))
    return fused, shares


def logits_of(shares: Tensor) -> Tensor:
    """The logits of shares that are given as numbers."""
    return shares.log().clamp_min(NONE)


def fuse(
    point: FusionPoint, features: Sequence[Feature], logits: Tensor, state: FusionState, bias: Tensor | None = None
) -> list[Tensor]:
    """The features by their logits [B, N, H, W], for every expert. Only present experts have a share.

    bias: of the experts' identity (identity_bias.py)
    """
    features = of_one_dtype(features)
    return hand_out(point, features, *blend(present(features), of_present(features, logits)), state, bias)


def hand_out(
    point: FusionPoint,
    features: Sequence[Feature],
    fused: Tensor,
    shares: Tensor,
    state: FusionState,
    bias: Tensor | None = None,
) -> list[Tensor]:
    """What each expert goes on with: the fused feature or, with an identity bias, a blend of its own.

    shares: of the present experts
    """
    if state.keep is not None:
        state.keep(point, of_all(features, shares))
    # A view: one expert's own feature may have come through as it is, and now all of them hold it.
    shared = fused.view_as(fused)
    inputs = [shared] * len(features)
    if bias is not None:
        blends, shares = own_blends(present(features), fused, shares, bias)
        own = iter(blends)
        inputs = [shared if feature is None else next(own) for feature in features]
    if state.observe is not None:
        state.observe(point, of_all(features, shares))
    return inputs


def of_one_dtype(features: Sequence[Feature]) -> list[Feature]:
    """The features in the dtype of the first that was not left out: experts may compute in several."""
    first = next(feature for feature in features if feature is not None)
    return [feature if feature is None else feature.to(first.dtype) for feature in features]


def present(features: Sequence[Feature]) -> list[Tensor]:
    """The features of the experts that were not left out, in the dtype of the first."""
    return [feature for feature in of_one_dtype(features) if feature is not None]


def of_present(features: Sequence[Feature], logits: Tensor) -> Tensor:
    """The logits of the present experts; by Python numbers, as an index tensor would be copied to the device."""
    if not any(feature is None for feature in features):
        return logits
    each = zip(logits.split(1, dim=1), features, strict=True)
    return torch.cat([logit for logit, feature in each if feature is not None], dim=1)


def of_all(features: Sequence[Feature], shares: Tensor) -> Tensor:
    """The shares of the present experts, and 0 for the missing ones."""
    if not any(feature is None for feature in features):
        return shares
    each, nothing = iter(shares.split(1, dim=1)), torch.zeros_like(shares[:, :1])
    return torch.cat([nothing if feature is None else next(each) for feature in features], dim=1)


def _mean(states: list[Tensor]) -> Tensor:
    first = states[0]
    if all(other is first for other in states):
        return first
    return torch.stack(states).mean(0)


def at_one_length(text: list[Tensor]) -> list[Tensor]:
    """Texts [B, L, D] of different lengths, repeated to their least common multiple, as the host does.

    Repeated tokens change nothing for cross-attention.
    """
    length = math.lcm(*(states.shape[1] for states in text))
    return [t if t.shape[1] == length else t.repeat(1, length // t.shape[1], 1) for t in text]
