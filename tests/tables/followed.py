"""Which expert an aggregator follows where, while it paints: read from the ensemble's own record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.pocket.scenes.rows import right_weight

from .questions import PairList

PLACES = (8, 16)
"""Positions of a scene's latents."""


class Followed:
    """Called after every batch that an ensemble has painted; gathers the weight of the right expert in its half."""

    def __init__(self, model, pairs: PairList):
        from afa_core.host.sampling.parts import ensemble_of

        self.record, self.pairs = ensemble_of(model).record, pairs
        self.weights: list[Tensor] = []
        self.points: list[str] = []

    def __call__(self, place: slice, latents: Tensor) -> None:
        run = self.record.run_of(latents)
        assert run is not None
        self.points = [run.points[i].name for i in run.fused_points]
        self.weights.append(right_weights(run, self.pairs.domains[place]))

    def row(self) -> dict[str, Any]:
        """right weight: by pair, over steps and points; by point and step: over pairs, [points][steps]."""
        weights = torch.cat(self.weights, dim=-1)
        by_point = dict(zip(self.points, weights.mean(-1).T.tolist(), strict=True))
        return {"right weight": weights.mean((0, 1)).tolist(), "by point and step": by_point}


def right_weights(run, domains: list[tuple[str, ...]]) -> Tensor:
    """[steps, fused points, pairs] of a run: the weight of the right expert in its half, for the prompt."""
    return torch.stack(
        [
            torch.stack([right_weight(prompt_maps(evaluations, point), domains) for point in run.fused_points])
            for _, evaluations in run.steps
        ]
    )


def mean_maps(run, steps: Sequence[int] = (), points: Sequence[int] = ()) -> Tensor:
    """Mean weights [B, N, 8, 16] over these steps and points, by default all, for the prompt."""
    each = [run.steps[i][1] for i in steps or range(len(run.steps))]
    maps = [prompt_maps(e, p) for e in each for p in points or run.fused_points]
    return torch.stack([F.interpolate(m, PLACES, mode="area") for m in maps]).mean(0)


def prompt_maps(evaluations: list, point: int) -> Tensor:
    """Weights [B, N, h, w] at one point in one step; those that are the same everywhere are two columns wide."""
    parts = []
    for evaluation in evaluations:
        maps = evaluation.maps.get(point)
        if maps is None:
            maps = evaluation.shares[point][..., None, None].expand(-1, -1, 1, 2)
        parts.append(maps[torch.tensor(evaluation.guided)].float())
    return torch.cat(parts)
