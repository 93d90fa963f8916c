"""What every system is asked: pairs of a list under fixed noise, and their captions to paint from fixed noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tests.pocket.scenes import datasets, pairs, pictures

from .features import features
from .world import World

BATCH = 34
"""A sixth of what is painted; nothing depends on it but the noise, which is the same for every system."""
TITLES = {
    "known": "known: subjects that the base and the experts know",
    "experts_only": "experts only: subjects that their expert learnt and the base did not",
    "held_out": "held-out: subjects that nothing was trained on",
    "watched_known": "watched, known to the base and the experts",
    "watched_experts_only": "watched, subjects that their expert learnt and the base did not",
    "watched_unseen": "watched, subjects that nothing but the autoencoder was trained on",
}
FINAL = ("known", "experts_only", "held_out")
PAINTED = "experts_only"
"""How the name of the list ends that is painted: the one on which claims are judged (PROTOCOL.md)."""


@dataclass(frozen=True)
class Question:
    """latents [B, 4, 8, 16] as the sampler sees them, noise of that shape, timesteps [B]; text and empty text [B, L, D];
    domains: of the left and the right subject of each pair."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    text: Tensor
    empty: Tensor
    domains: list[tuple[str, ...]]


class PairList:
    """Pairs of one list: all whose noise loss is measured, or those that are painted, once for every noise."""

    def __init__(self, name: str, count: int, looks: int, noises: int = 1):
        self.name, self.title, self.looks = name, TITLES[name], looks
        self._scenes = datasets.listed(name)
        total = len(self._scenes.drawn)
        count = min(count, total) or total
        self._places = [i * total // count for i in range(count)] * noises
        everything = pairs.load(name)
        self.pairs = [everything[place] for place in self._places]
        self.codes = [(pair.left.code, pair.right.code) for pair in self.pairs]
        self.captions = [datasets.scenes_caption(self._scenes.drawn[place]) for place in self._places]
        self.domains = [self._scenes.domains[place] for place in self._places]

    @cached_property
    def questions(self) -> list[Question]:
        """All pairs, once for every look; noise and timestep of a pair are those of tests/pocket/scenes/rows.py."""
        from afa_core.training.draw import held_out_draw

        empty, found = datasets.contexts([("",)]), []
        for look in range(self.looks):
            for start in range(0, len(self._places), BATCH):
                batch = self._scenes.batch(self._places[start : start + BATCH])
                draw = held_out_draw(batch, look)
                timesteps = (draw.levels * 1000).round().long()
                text, domains = batch.texts[0]["c_crossattn"], self.domains[start : start + BATCH]
                found.append(Question(batch.latents, draw.noise, timesteps, text, empty, domains))
        return found

    @cached_property
    def real(self) -> Tensor:
        """The pairs as they really are: [n, 64, 128, 3] in 0..1."""
        shown = [pictures.scene(self._scenes.drawn[place]) for place in self._places]
        return torch.stack(shown).movedim(1, -1).float() / 255

    @cached_property
    def real_features(self) -> Tensor:
        """Of their halves, [2n, 1280], all left ones first."""
        return features(halves(self.real))

    @property
    def identity(self) -> list:
        return [self.name, self.codes]


def halves(scenes: Tensor) -> Tensor:
    """Pictures [n, 64, 128, 3] -> [2n, 64, 64, 3], all left halves first."""
    return torch.cat(scenes.chunk(2, dim=2))


def pair_lists(world: World, names: list[str]) -> list[PairList]:
    return [PairList(name, world.budget.pairs, world.budget.looks) for name in names]


def painted_list(world: World, names: list[str], noises: int) -> PairList | None:
    """None where no list on which claims are judged is among the names."""
    name = next((name for name in names if name.endswith(PAINTED)), None)
    return PairList(name, world.budget.painted, world.budget.looks, noises) if name else None
