"""Pictures of two subjects side by side, 128 x 64 pixels, their captions, and pools of them as latents.

A caption names both subjects with their places, one to a chunk of tokens (see the tokenizer in node/):
"left twemoji, mango, food fruit; right twemoji, runner, person activity".
"""

import random
from typing import NamedTuple

import torch
from safetensors.torch import load_file

from .. import common, data, others, vae
from . import pairs

PLACES = ("left", "right")
SEPARATOR = "; "
OTHERS = {"near": 0.3, "far": 0.0}
"""Of an expert's subjects: the share that its base knows of the other domains. Community fine-tunes keep what they knew."""
PAIRS, SINGLES = 2000, 400
"""Pictures in a stage's pool."""
SHIFT = 2
"""Pixels by which an expert's subjects are moved at most."""


class Drawn(NamedTuple):
    """One subject as it is painted."""

    subject: data.Subject
    hand: str
    mirrored: bool
    shift: tuple[int, int]

    @property
    def caption(self) -> str:
        return data.captions([self.subject], [self.hand])[0]

    def picture(self) -> torch.Tensor:
        """uint8 [3, 64, 64]"""
        picture = data.shift(data.pictures([self.subject], [self.hand]), *self.shift)[0]
        return picture.flip(-1) if self.mirrored else picture


class Pool(NamedTuple):
    """Latents [M, 4, 8, 8] or [M, 4, 8, 16], and the captions of each picture's subjects, one or two."""

    latents: torch.Tensor
    captions: list[tuple[str, ...]]


def plain(subject: data.Subject) -> Drawn:
    return Drawn(subject, "twemoji", False, (0, 0))


def scene(drawn: tuple[Drawn, ...]) -> torch.Tensor:
    """uint8 [3, 64, 64 or 128]: the subjects from left to right."""
    return torch.cat([each.picture() for each in drawn], dim=-1)


def caption(parts: tuple[str, ...]) -> str:
    """Of one subject as it is, of two with their places."""
    return (
        parts[0]
        if len(parts) == 1
        else SEPARATOR.join(f"{place} {part}" for place, part in zip(PLACES, parts, strict=True))
    )


def pools(stage: str) -> tuple[Pool, Pool]:
    """(pairs, singles) of "base", "near_people", "far_things" ..., encoded once and kept in .pocket/."""
    cache = common.WORK / f"scenes_pool_{stage}.pt"
    if not cache.exists():
        draw = random.Random(f"{common.SEED} {stage}")
        listed, found = pairs.listed(), []
        while len(found) < PAIRS:
            both = _draw(stage, draw), _draw(stage, draw)
            codes = frozenset(each.subject.code for each in both)
            if len(codes) == 2 and codes not in listed:
                found.append(both)
        made = [found, [(_draw(stage, draw),) for _ in range(SINGLES)]]
        common.save_atomic([(encoded(rows), [tuple(d.caption for d in row) for row in rows]) for rows in made], cache)
    both, alone = torch.load(cache, weights_only=True)
    return Pool(*both), Pool(*alone)


def _draw(stage: str, draw: random.Random) -> Drawn:
    if stage == "base":
        return plain(draw.choice(data.subjects("train")))
    kind, domain = stage.split("_")
    if draw.random() < OTHERS[kind]:
        return plain(draw.choice([s for s in data.subjects("train") if s.domain != domain]))
    own = draw.choice(data.subjects("train+spare", domain) + others.of_experts(domain))
    moved = draw.randint(-SHIFT, SHIFT), draw.randint(-SHIFT, SHIFT)
    return Drawn(own, draw.choice(common.HANDS), draw.random() < 0.5, moved)


def autoencoder() -> torch.nn.Module:
    """The committed one, float32, without gradients."""
    net = vae.build()
    net.load_state_dict({k: v.float() for k, v in load_file(common.WEIGHTS / "vae.safetensors").items()})
    return net.requires_grad_(False).eval()


def encoded(drawn: list[tuple[Drawn, ...]]) -> torch.Tensor:
    """Latents [M, 4, 8, 8 or 16] of pictures that all show as many subjects."""
    return vae.encode(autoencoder(), torch.stack([scene(row) for row in drawn]).float() / 255, batch=32)
