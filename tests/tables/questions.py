"""What every system is asked: pictures under fixed noise, and names to paint from fixed noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tests.pocket import common, folder

from .features import features
from .world import EXPERTS, World

BATCH = 60


@dataclass(frozen=True)
class Picture:
    caption: str
    domain: str
    path: Path

    @property
    def hand(self) -> str:
        return self.caption.split(", ", 1)[0]

    @property
    def subject(self) -> str:
        return self.caption.split(", ", 1)[1]


@dataclass(frozen=True)
class Question:
    """latents [B, 4, 8, 8] as the sampler sees them, noise of that shape, timesteps [B]; text and empty text [B, L, D]."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    text: Tensor
    empty: Tensor


class PictureSet:
    """Captioned pictures of one folder, and in which hands their captions are painted."""

    def __init__(self, world: World, short: str, title: str, source: Path, hands: tuple[str, ...]):
        self.short, self.title, self.hands, self.budget = short, title, hands, world.budget
        self.dataset = _dataset(world, source)
        items = self.dataset.items
        pictures = [Picture(item.caption, item.domain, source / item.name) for item in items]
        self.places = world.budget.of_each_domain([p.domain for p in pictures], [p.subject for p in pictures])
        self.pictures = [pictures[place] for place in self.places]

    @cached_property
    def questions(self) -> list[Question]:
        """All pictures, once for every look."""
        from afa_core.training.draw import held_out_draw

        empty = self.dataset.store.text(0, self.places[0], True)["c_crossattn"]
        found = []
        for look in range(self.budget.looks):
            for start in range(0, len(self.places), BATCH):
                batch = self.dataset.batch_of(self.places[start : start + BATCH])
                draw = held_out_draw(batch, look)
                timesteps = (draw.levels * 1000).round().long()
                found.append(Question(batch.latents, draw.noise, timesteps, batch.texts[0]["c_crossattn"], empty))
        return found

    @property
    def painted(self) -> list[Picture]:
        """The pictures whose captions are painted."""
        return self.of_hands(self.hands)

    def of_hands(self, hands: tuple[str, ...]) -> list[Picture]:
        return [picture for picture in self.pictures if picture.hand in hands]

    @cached_property
    def real_features(self) -> Tensor:
        """Those of the real pictures of what is painted, [n, 1280]."""
        return features(real(self.painted))

    @property
    def identity(self) -> list[str]:
        return [self.dataset.digest, *(picture.caption for picture in self.pictures)]


def real(pictures: list[Picture]) -> Tensor:
    """The pictures as they really are: [n, 64, 64, 3] in 0..1."""
    import numpy as np
    from PIL import Image

    return torch.stack([torch.from_numpy(np.array(Image.open(p.path))).float() / 255 for p in pictures])


def picture_sets(world: World) -> list[PictureSet]:
    hands = world.budget.hands
    return [
        PictureSet(world, "held-out", "Held-out subjects, which nothing was trained on", folder.held_out(), hands),
        PictureSet(
            world, "known", "Subjects that the experts know, and the aggregator does not", folder.known(), hands
        ),
    ]


def _dataset(world: World, source: Path):
    from afa_core.host.experts.experts import Expert
    from afa_core.host.training.encoding import DatasetSettings, prepare_dataset
    from afa_core.training.data.prompt_folder import read_prompt_folder

    expert = Expert(world.load(EXPERTS[0])[0], EXPERTS[0])
    settings = DatasetSettings(resolution=common.SIZE, batch_size=BATCH, held_out=0.0)
    return prepare_dataset([expert], world.clip, world.vae, read_prompt_folder(source), settings)
