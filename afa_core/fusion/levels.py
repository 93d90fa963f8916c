"""An average of the predictions whose weights change with the noise level: what a probe gives without any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .fusion import Feature, Fusion, FusionError, FusionState, fuse, logits_of
from .points import FusionPoint


@dataclass(frozen=True)
class LevelFusion:
    """The experts run by themselves, and their predictions are averaged.

    levels:  ascending noise levels, fractions 0..1 of what training draws from
    weights: at each level one an expert, of sum 1; between levels they are interpolated
    """

    levels: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]

    def bind(self, points: list[FusionPoint], experts: int) -> Fusion:
        """Raises FusionError where the weights are for another number of experts."""
        if len(self.weights[0]) != experts:
            raise FusionError(
                f"The probe's fusion has weights for {len(self.weights[0])} models, but {experts} models are connected: "
                "connect the models that were probed, in the same order."
            )
        levels, weights = (cache(torch.tensor(numbers).to) for numbers in (self.levels, self.weights))  # by device

        def fusion(point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
            if not point.is_prediction:
                return features
            assert state.level is not None
            device = state.level.device
            shares = interpolated(levels(device), weights(device), state.level)[..., None, None]
            return fuse(point, features, logits_of(shares), state)

        return fusion


def interpolated(levels: Tensor, weights: Tensor, level: Tensor) -> Tensor:
    """Rows [B, N] of weights [L, N] given at levels [L], at each level of [B]; beyond the ends those of the end."""
    after = torch.searchsorted(levels, level).clamp(1, len(levels) - 1)
    before = after - 1
    part = ((level - levels[before]) / (levels[after] - levels[before])).clamp(0, 1)
    return torch.lerp(weights[before], weights[after], part[:, None])
