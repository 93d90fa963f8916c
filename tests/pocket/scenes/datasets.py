"""Scenes as the trainer's data and as questions of the tables, from latents and texts in memory."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from afa_core.training.data.dataset import Batch, BatchPlan, DatasetItem, LatentDataset

from .. import common
from . import models, pairs, pictures

EXPERTS = len(common.DOMAINS)
TRAINING_PAIRS, TRAINING_SINGLES = 8000, 1600
BATCH = 8
"""Of the aggregators' trainings."""
TRAINING = "training"
WATCHED = ("watched_known", "watched_experts_only", "watched_unseen")


@dataclass
class Scenes:
    """latents [M, 4, 8, 8 or 16] and texts [M, L, 64] of pictures that all show as many subjects; drawn: what they show."""

    drawn: list[tuple[pictures.Drawn, ...]]
    latents: Tensor
    texts: Tensor

    def batch(self, items: list[int]) -> Batch:
        text = {"c_crossattn": self.texts[items], "y": None}
        return Batch(items, self.latents[items], [text] * EXPERTS, torch.zeros(len(items), dtype=torch.bool))

    def batches(self, size: int) -> list[Batch]:
        return [self.batch(part.tolist()) for part in torch.arange(len(self.drawn)).split(size)]

    @property
    def domains(self) -> list[tuple[str, ...]]:
        return [tuple(d.subject.domain for d in row) for row in self.drawn]


def sample(name: str) -> Scenes:
    """The pairs of a list, or as many of those that aggregators are trained on."""
    if name != TRAINING:
        return listed(name)
    both, _ = pool()
    count = len(pairs.load("experts_only"))
    return Scenes(both.drawn[:count], both.latents[:count], both.texts[:count])


def listed(*names: str) -> Scenes:
    """The pairs of lists."""
    rows = [tuple(map(pictures.plain, pair)) for name in names for pair in pairs.load(name)]
    return _scenes("_".join(names), rows)


def pool() -> tuple[Scenes, Scenes]:
    """(pairs of mixed domains, single pictures) of the aggregator's subjects."""
    draw, subjects = random.Random(common.SEED), pairs.learners()
    by_domain = {domain: [s for s in subjects if s.domain == domain] for domain in common.DOMAINS}

    def painted(domain: str, hand: str) -> pictures.Drawn:
        return pictures.Drawn(draw.choice(by_domain[domain]), hand, draw.random() < 0.5, (0, 0))

    both, alone = [], []
    for _ in range(TRAINING_PAIRS):
        hand = draw.choice(common.HANDS)
        both.append(tuple(painted(domain, hand) for domain in draw.sample(common.DOMAINS, 2)))
    for _ in range(TRAINING_SINGLES):
        alone.append((painted(draw.choice(common.DOMAINS), draw.choice(common.HANDS)),))
    return _scenes(TRAINING, both), _scenes(f"{TRAINING}_singles", alone)


def training() -> LatentDataset:
    """The aggregator's pool; watched are pairs that only experts know."""
    parts = [*((part, False) for part in pool()), (listed(WATCHED[1]), True)]
    items = [
        DatasetItem(f"{number} {index}", str(index), scenes_caption(row), "scenes", 1, tuple(part.latents.shape[-2:]),
                    part.texts.shape[1], held_out=watched)
        for number, (part, watched) in enumerate(parts) for index, row in enumerate(part.drawn)
    ]  # fmt: skip
    plan = BatchPlan(common.SEED, BATCH)
    return LatentDataset(items, _Store([part for part, _ in parts]), EXPERTS, plan, f"scenes {common.SEED}")


class _Store:
    def __init__(self, parts: list[Scenes]) -> None:
        self.rows = [(part.latents[i], part.texts[i]) for part in parts for i in range(len(part.drawn))]
        self.empty = contexts([("",)])[0]

    def latent(self, item: int, variant: int) -> Tensor:
        return self.rows[item][0]

    def text(self, expert: int, item: int, empty: bool) -> dict[str, Tensor]:
        return {"c_crossattn": (self.empty if empty else self.rows[item][1])[None]}


def contexts(captions: list[tuple[str, ...]]) -> Tensor:
    """[M, L, 64], as the host's text encoder gives them (test_scenes.py)."""
    return models.base().context(models.tokenize(captions))


def scenes_caption(row: tuple[pictures.Drawn, ...]) -> str:
    return pictures.caption(tuple(d.caption for d in row))


def _scenes(name: str, rows: list[tuple[pictures.Drawn, ...]]) -> Scenes:
    """Latents are encoded once and kept in .pocket/."""
    cache, shown = common.WORK / f"scenes_latents_{name}.pt", [scenes_caption(row) for row in rows]
    saved = torch.load(cache, weights_only=True) if cache.exists() else {"shown": None}
    if saved["shown"] != shown:
        saved = {"shown": shown, "latents": pictures.encoded(rows)}
        common.save_atomic(saved, cache)
    return Scenes(rows, saved["latents"], contexts([tuple(d.caption for d in row) for row in rows]))
