"""Whether the right expert is followed where the experts differ: python -m tests.pocket.scenes.apart [lists ...] [--kind far]

At every place of the latents: how far the experts' own predictions are apart (their variance), and the weight that an aggregator
gives to the half's own expert, by fusion point. By default `identity bias` of seed 1 on the watched pairs that only experts know.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from afa_core.fusion.points import FusionPoint  # noqa: E402
from afa_core.training.draw import held_out_draw  # noqa: E402
from afa_core.training.objective import sample_loss  # noqa: E402

from . import aggregators, datasets, rows, world  # noqa: E402

PARTS = 4


@torch.no_grad()
def measured(of: world.World, scenes: datasets.Scenes, variant: str) -> tuple[Tensor, dict[str, Tensor]]:
    """(variance of the predictions [places], weight of the right expert by point [places]) over all pairs and their looks."""
    file = aggregators.last(of, variant, 1, aggregators.STEPS[of.kind])
    fusion, apart, weights = rows.trained_fusion(variant, file), [], defaultdict(list)
    for look in range(rows.LOOKS):
        for batch in scenes.batches(world.BATCH):
            draw, domains = held_out_draw(batch, look), [scenes.domains[item] for item in batch.items]
            variance = rows.own_predictions(of, batch, draw)[0].var(1).mean(1)
            apart.append(variance.flatten())

            def observe(point: FusionPoint, shares: Tensor, size=variance.shape[1:], domains=domains) -> None:
                even = F.interpolate(shares, size, mode="area")
                weights[point.name].append(rows.of_right_expert(even, domains).flatten())

            sample_loss(of.experts, fusion, batch, draw, observe)
    return torch.cat(apart), {point: torch.cat(parts) for point, parts in weights.items()}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("lists", nargs="*", default=[datasets.WATCHED[1]], help="of pairs.tsv, or training")
    ask.add_argument("--kind", default="near", choices=world.KINDS)
    ask.add_argument("--variant", default="identity bias", choices=aggregators.VARIANTS)
    args = ask.parse_args()
    of = world.start(args.kind)
    for name in args.lists:
        apart, weights = measured(of, datasets.sample(name), args.variant)
        parts = apart.argsort().chunk(PARTS)
        shares = ", ".join(f"{apart[part].sum() / apart.sum():.0%}" for part in parts)
        print(f"{name}: a quarter of the places each, by the experts' variance, of which it has {shares}.")
        for point, weight in weights.items():
            means = ", ".join(f"{weight[part].mean():.2f}" for part in parts)
            print(f"{point}: weight of the right expert {weight.mean():.2f}; by quarter {means}")


if __name__ == "__main__":
    main()
