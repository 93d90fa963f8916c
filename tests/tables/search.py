"""What baselines find out before they paint: autoMBW's block weights and the probe's weights by noise level, by their nodes.

Both on pairs that the aggregators learn from. autoMBW's scorer is real here: likeness to the real picture.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import features, learners
from .questions import halves
from .world import World

METHODS = {"autoMBW (binary mid)": "binary mid (autoMBW)", "autoMBW (CMA-ES)": "CMA-ES"}
SCORER = "likeness"
RESOLUTION = 91
"""The side of a square as large as a pair, rounded up: 64 x 128."""


class LikenessScorer:
    """In the form of the pack's scorers: mean cosine of both halves' EfficientNet features with those of the real ones."""

    def __init__(self, count: int):
        from tests.pocket.scenes import pictures

        self.real = {}
        for pair in learners.learnt(count):
            real = pictures.scene(learners.drawn(pair)).permute(1, 2, 0)[None].float() / 255
            self.real[learners.caption(pair)] = features.features(halves(real))

    def __call__(self, pictures: Tensor, prompts: list[str], references: Tensor | None = None) -> Tensor:
        import torch

        found = features.features(halves(pictures))
        real = torch.stack([self.real[prompt] for prompt in prompts], dim=1).flatten(0, 1)
        return features.likeness(found, real).view(2, -1).mean(0)


def depends(world: World, method: str) -> list[Any]:
    budget = world.budget
    return [method, budget.merges, budget.merge_steps, budget.cfg, _prompts(world)]


def searched(world: World, method: str) -> tuple:
    """(the best merge, the node's report); a search that was stopped goes on, and one that has ended is read."""
    from afa_core.host.scoring.scorers import SCORERS

    budget = world.budget
    SCORERS[SCORER] = lambda: LikenessScorer(budget.merge_pairs)
    return world.call(
        "AFAAutoMerge", **world.sockets(), clip=world.clip, vae=world.vae, latent_image=world.empty_latent(1), scorer=SCORER,
        method=method, prompts="\n".join(_prompts(world)), budget=budget.merges, steps=budget.merge_steps,
        cfg=budget.cfg, save_as=f"tables_{world.kind}",
    )  # fmt: skip


def probed(world: World):
    """The probe's fusion: weights by noise level, found once."""
    from afa_core.fusion.levels import LevelFusion

    budget = world.budget

    def measure() -> dict[str, Any]:
        fusion = world.call(
            "AFAProbe", **world.sockets(), clip=world.clip, vae=world.vae, prompt_folder=str(learners.folder(budget.probed)),
            resolution=RESOLUTION, pictures=budget.probed, noises=max(2, budget.looks), seed=0,
        )[3]  # fmt: skip
        return {"levels": fusion.levels, "weights": fusion.weights}

    found = world.store.row(f"{world.kind} probe", [world.digest, budget.probed, budget.looks], measure)
    return LevelFusion(tuple(found["levels"]), tuple(map(tuple, found["weights"])))


def _prompts(world: World) -> list[str]:
    return [learners.caption(pair) for pair in learners.learnt(world.budget.merge_pairs)]
