"""What the weight of the right expert is worth: python -m tests.pocket.scenes.by_weight [lists ...] [--kind far]

Losses of predictions in which the half's own expert has this weight, and the others share the rest evenly: from the noise
average, at 1/3, to the oracle by place, at 1. By default on the watched pairs that only experts know.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from afa_core.training.draw import held_out_draw  # noqa: E402

from . import datasets, rows, world  # noqa: E402

WEIGHTS = (1 / 3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0, 1.1)


@torch.no_grad()
def losses(of: world.World, scenes: datasets.Scenes) -> Tensor:
    """Mean loss by weight, over all pairs and their looks."""
    found = []
    for look in range(rows.LOOKS):
        for batch in scenes.batches(world.BATCH):
            own, target = rows.own_predictions(of, batch, held_out_draw(batch, look))
            right = rows.of_right_expert(own, [scenes.domains[item] for item in batch.items])
            others = (own.sum(1) - right) / (datasets.EXPERTS - 1)
            found.append(torch.stack([(others.lerp(right, w) - target).square().mean((1, 2, 3)) for w in WEIGHTS], dim=1))
    return torch.cat(found).mean(0)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("lists", nargs="*", default=[datasets.WATCHED[1]], help="of pairs.tsv")
    ask.add_argument("--kind", default="near", choices=world.KINDS)
    args = ask.parse_args()
    of = world.start(args.kind)
    for name in args.lists:
        by_weight = zip(WEIGHTS, losses(of, datasets.listed(name)).tolist(), strict=True)
        print(f"{name}: " + ", ".join(f"{loss:.4f} at {weight:.2f}" for weight, loss in by_weight))


if __name__ == "__main__":
    main()
