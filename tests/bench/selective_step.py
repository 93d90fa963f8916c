"""What selective ensembling saves at SD1.5's size, with a routing that leaves out a good third of the blocks."""

from __future__ import annotations

from unittest.mock import patch

import torch

from .measure import interleaved, ratios, spread
from .models import random_aggregator, random_unet
from .step import ECONOMICAL, call

SIZE = 32
EVERY, SKIP = 6, 0.2
SELECTION = {"skip_below": SKIP, "decide_every": EVERY}
SIGMAS = (3.6, 3.5, 3.4, 3.3, 3.2, 3.1)
"""One step decides, and five keep what it decided."""
ONE, TWO = (0.8, 0.15, 0.05), (0.5, 0.45, 0.05)
"""Shares of the experts, in turns: at one fusion point of three one expert stays, at two of them two."""
CONSTANT = 1e3


@torch.inference_mode()
def bench_selective_step(rounds: int = 3) -> list[str]:
    from comfy.ldm.modules import attention

    from afa_core.host.experts.experts import Expert
    from afa_core.host.sampling.ensemble import make_ensemble

    experts = [Expert(random_unet(seed), f"model_{seed + 1}") for seed in range(3)]
    points = len(experts[0].points)
    computed = sum(2 if _two(index) else 1 for index in range(points)) / 3 / points
    ensembles = {
        f"{name}{kind}": make_ensemble(one_sided(random_aggregator(experts, **economy)), experts, **selection)
        for name, economy in (("faithful", {}), ("1 layer, routing_stride 4", ECONOMICAL))
        for kind, selection in (("", {}), (f", skip_below {SKIP}, decide_every {EVERY}", SELECTION))
    }
    candidates = {f"expert {i}": steps(expert.patcher) for i, expert in enumerate(experts)}
    candidates |= {name: steps(ensemble) for name, ensemble in ensembles.items()}
    with patch.object(attention, "optimized_attention", attention.attention_pytorch):
        seconds = interleaved(candidates, rounds)
    own = [seconds[f"expert {i}"] for i in range(3)]
    return [
        f"| aggregator | time of {EVERY} steps / sum of the experts' own |",
        "|---|---|",
        *(f"| {name} | {spread(ratios(seconds[name], *own))} |" for name in ensembles),
        "",
        f"One step in {EVERY} is a full one; in the others {computed:.3f} of the experts' blocks are computed, "
        f"{(1 + (EVERY - 1) * computed) / EVERY:.3f} over all, by a routing made for the purpose.",
    ]


def steps(patcher):
    """Evaluations at falling noise levels, as steps of one run of an ensemble."""
    from afa_core.host.sampling.parts import ensemble_of
    from afa_core.host.sampling.run import RUN, Run

    options = {"uuids": ["prompt", "negative prompt"]}
    calls = [call(patcher, SIZE, sigma=sigma, options=options) for sigma in SIGMAS]

    def run() -> None:
        if ensemble_of(patcher):
            options[RUN] = Run(patcher)
        for evaluate in calls:
            if RUN in options:
                options[RUN].next_step()
            evaluate()

    return run


def one_sided(file):
    """The same aggregators with constant shares: a large bias makes them so."""
    for index in file.config.fused_points:
        shares = torch.tensor(TWO if _two(index) else ONE).roll(index)
        of = f"aggregators.{index}."
        file.state[f"{of}transformer.proj_out.bias"][0] = CONSTANT
        file.state[f"{of}conv_out.weight"].zero_()[:, 0, 0, 0] = shares.log() / CONSTANT
    return file


def _two(index: int) -> bool:
    return index % 3 < 2
