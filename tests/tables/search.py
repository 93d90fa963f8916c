"""autoMBW on the pocket experts, by its own node, with a scorer that is real here: likeness to the real picture.

The names it is judged on are ones that the experts were trained on and no table is measured on.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.pocket import common, data, folder

from . import features
from .world import World

METHODS = {"autoMBW (binary mid)": "binary mid (autoMBW)", "autoMBW (CMA-ES)": "CMA-ES"}
SCORER = "likeness"
HAND = "twemoji"


def subjects(each: int) -> list[data.Subject]:
    """`each` training subjects a domain that `folder.known` has left alone."""
    known = {path.stem.split("_", 1)[1] for path in folder.known().rglob("*.png")}
    found = []
    for domain in common.DOMAINS:
        rows = [s for s in data.subjects("train", domain) if s.code not in known]
        found += rows[:: len(rows) // each][:each]
    return found


class LikenessScorer:
    """In the form of the pack's scorers: cosine of EfficientNet features with the real picture of the prompt."""

    def __init__(self, rows: list[data.Subject]):
        real = data.pictures(rows, (HAND,)).permute(0, 2, 3, 1).float() / 255
        self.real = dict(zip(data.captions(rows, (HAND,)), features.features(real), strict=True))

    def __call__(self, pictures: Tensor, prompts: list[str], references: Tensor | None = None) -> Tensor:
        import torch

        return features.likeness(features.features(pictures), torch.stack([self.real[prompt] for prompt in prompts]))


def depends(world: World, method: str) -> list[Any]:
    budget = world.budget
    rows = subjects(budget.merge_subjects)
    return [method, budget.merges, budget.merge_steps, budget.cfg, data.captions(rows, (HAND,))]


def searched(world: World, method: str) -> tuple:
    """(the best merge, the node's report); a search that was stopped goes on, and one that has ended is read."""
    from afa_core.host.scoring.scorers import SCORERS

    budget = world.budget
    rows = subjects(budget.merge_subjects)
    SCORERS[SCORER] = lambda: LikenessScorer(rows)
    latent = world.call("EmptyLatentImage", width=common.SIZE, height=common.SIZE, batch_size=1)[0]
    return world.call(
        "AFAAutoMerge", **world.sockets(), clip=world.clip, vae=world.vae, latent_image=latent, scorer=SCORER, method=method,
        prompts="\n".join(data.captions(rows, (HAND,))), budget=budget.merges, steps=budget.merge_steps,
        cfg=budget.cfg, save_as="tables",
    )  # fmt: skip
