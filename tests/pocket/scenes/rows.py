"""Noise losses of every row on pairs, and which expert the aggregators follow in which half.

All rows see the same noise and timesteps. Rows without training: the base, every expert, the weighted merge, the
averages, and one that knows the place, each half by its own expert.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from afa_core.aggregator.file import load_aggregator
from afa_core.aggregator.sabw import Aggregator
from afa_core.fusion.averages import StaticFusion
from afa_core.fusion.fusion import Feature, Fusion, FusionState
from afa_core.fusion.points import FusionPoint
from afa_core.fusion.sabw_fusion import SABWFusion
from afa_core.fusion.variance import MaxFusion
from afa_core.training.data.dataset import Batch
from afa_core.training.draw import Draw, held_out_draw
from afa_core.training.objective import Predictions, baseline_losses, problem, sample_loss

from .. import common
from . import gate
from .datasets import EXPERTS, Scenes
from .world import BATCH, World

LOOKS = 4
"""Draws of noise and timestep for every pair."""
ORACLE = "oracle by place, predictions"
FREE = {"last block average": StaticFusion("last block average"), "max fusion": MaxFusion()}


@dataclass
class Rows:
    """losses: one a pair, by row; routing: mean weight of the right expert in its half, by aggregator and point."""

    losses: dict[str, Tensor]
    routing: dict[str, dict[str, Tensor]]


@torch.no_grad()
def measure(world: World, scenes: Scenes, trained: dict[str, list[Path]]) -> Rows:
    """trained: the files of each aggregator, one a seed, whose mean is its row; a point that a seed has pruned is left out there."""
    free = {name: fusion.bind(world.experts.points, EXPERTS) for name, fusion in FREE.items()}
    fusions = {name: [lambda _, fusion=fusion: fusion] for name, fusion in free.items()}
    fusions |= {ORACLE: [oracle_by_place]}
    loaded = {name: [trained_fusion(name, file) for file in files] for name, files in trained.items()}
    fusions |= {name: [lambda _, fusion=fusion: fusion for fusion in some] for name, some in loaded.items()}
    losses, routing = defaultdict(list), {name: defaultdict(list) for name in trained}
    for look in range(LOOKS):
        for batch in scenes.batches(BATCH):
            draw, domains = held_out_draw(batch, look), [scenes.domains[i] for i in batch.items]
            one = replace(batch, texts=batch.texts[:1])
            for name, alone in world.alone.items():
                losses[name].append(sample_loss(alone, _unfused, one, draw))
            for name, loss in baseline_losses(world.experts, batch, draw).items():
                losses[name].append(loss)
            for name, makes in fusions.items():
                seen: dict[str, list[Tensor]] = defaultdict(list)

                def observe(point: FusionPoint, shares: Tensor, seen: dict = seen, domains: list = domains) -> None:
                    seen[point.name].append(right_weight(shares, domains))

                seeing = observe if name in trained else None
                each = [sample_loss(world.experts, make(domains), batch, draw, seeing) for make in makes]
                losses[name].append(torch.stack(each).mean(0))
                for point, weights in seen.items():
                    routing[name][point].append(torch.stack(weights).mean(0))
    points = [point.name for point in world.experts.points]
    followed = {n: {p: over_looks(of[p]) for p in points if p in of} for n, of in routing.items()}
    return Rows({name: over_looks(parts) for name, parts in losses.items()}, followed)


def over_looks(batches: list[Tensor]) -> Tensor:
    """Of one value a pair and look, in their batches: one a pair."""
    return torch.cat(batches).view(LOOKS, -1).mean(0)


def own_predictions(world: World, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
    """Every expert's own prediction [B, N, C, H, W], and what they should predict [B, C, H, W]."""
    sigma, noisy, target = problem(world.experts, batch, draw)
    alone = Predictions()
    world.experts.predict(alone, noisy, sigma, batch.texts)
    return torch.stack(alone.predictions, dim=1), target


def right_weight(shares: Tensor, domains: list[tuple[str, ...]]) -> Tensor:
    """Shares [B, N, H, W] -> [B]: the mean weight of the left domain's expert on the left, of the right one's on the right."""
    return of_right_expert(shares, domains).mean((1, 2))


def of_right_expert(values: Tensor, domains: list[tuple[str, ...]]) -> Tensor:
    """Values of every expert [B, N, ..., W] -> [B, ..., W]: the left domain's on the left, the right one's on the right."""
    experts = torch.tensor([[common.DOMAINS.index(domain) for domain in row] for row in domains])
    batch, halves = torch.arange(len(values)), values.tensor_split(2, dim=-1)
    return torch.cat([half[batch, experts[:, side]] for side, half in enumerate(halves)], dim=-1)


def _unfused(point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
    return features


def oracle_by_place(domains: list[tuple[str, ...]]) -> Fusion:
    """Each half of the prediction by its own expert's."""

    def fusion(point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        if not point.is_prediction:
            return features
        every = torch.stack([feature for feature in features if feature is not None], dim=1)
        return [of_right_expert(every, domains)] * len(features)

    return fusion


def trained_fusion(name: str, path: Path) -> Fusion:
    file = load_aggregator(path)
    module = Aggregator(file.config)
    module.load_state_dict(file.state)
    fusion = SABWFusion(module)
    return gate.gated(fusion) if name == "gate" else fusion


@torch.no_grad()
def cosines(world: World, scenes: Scenes) -> dict[str, float]:
    """Mean cosine between two experts' own features in one pass without fusing, by fusion point."""
    found: dict[str, list[Tensor]] = defaultdict(list)

    def look(point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        unit = [torch.nn.functional.normalize(f.flatten(1), dim=1) for f in features if f is not None]
        between = [(a * b).sum(1) for i, a in enumerate(unit) for b in unit[:i]]
        found[point.name].append(torch.stack(between).mean(0))
        return features

    for batch in scenes.batches(BATCH):
        sample_loss(world.experts, look, batch, held_out_draw(batch))
    return {name: torch.cat(parts).mean().item() for name, parts in found.items()}
