"""What the scenes' rows lose: python -m tests.pocket.scenes.results [lists ...] [--kind far]

By default on the watched tenth. The held-out lists, known, experts_only and held_out, are looked at once, at the end
(PROTOCOL.md). Prints Markdown.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path  # noqa: E402

from . import aggregators, datasets, models, pairs, rows, statistics, world  # noqa: E402

AGAINST = "AFA"


def table(of: world.World, name: str, trained: dict[str, Path]) -> str:
    scenes = datasets.listed(name)
    found = rows.measure(of, scenes, trained)
    codes = [(row[0].subject.code, row[1].subject.code) for row in scenes.drawn]
    lines = [f"\n## {of.kind} experts, {name}: {len(codes)} pairs of {len(pairs.subjects_of(name))} subjects\n"]
    lines += [f"| row | loss | {AGAINST} minus it, 95 % over subjects |", "|---|---|---|"]
    for row, losses in found.losses.items():
        against = found.losses.get(AGAINST, losses) - losses
        cell = statistics.over_subjects(against, codes) if against.any() else ""
        lines.append(f"| {row} | {losses.mean():.4f} | {cell} |")
    free = min(found.losses[row].mean() for row in found.losses if row not in (*trained, rows.ORACLE))
    gap = free - found.losses[rows.ORACLE].mean()
    for row, points in found.routing.items():
        where = ", ".join(f"{point} {weight.mean():.2f}" for point, weight in points.items())
        right = statistics.over_subjects(list(points.values())[-1], codes)
        won = (free - found.losses[row].mean()) / gap
        gained = f"{won:.0%} of the gap from the best row without training to the oracle by place"
        lines += [f"\n{row}: {gained if gap > 0 else 'no gap, the oracle by place loses more than the best row without training'};"]
        lines += [f"weight of the right expert in its half, at the prediction {right}; by point: {where}."]
    return "\n".join(lines)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("lists", nargs="*", default=datasets.WATCHED, help="of pairs.tsv; default: the watched ones")
    ask.add_argument("--kind", default="near", choices=world.KINDS)
    ask.add_argument("--steps", type=int, help="of the aggregators' trainings")
    ask.add_argument("--seed", type=int, default=1)
    args = ask.parse_args()
    of, steps = world.start(args.kind), args.steps or aggregators.STEPS[args.kind]
    files = {name: aggregators.last(of, name, args.seed, steps) for name in aggregators.variants(args.kind)}
    trained = {name: file for name, file in files.items() if file.exists()}
    moved, near = models.moves(args.kind), rows.cosines(of, datasets.listed("watched_known"))
    print(
        "Weights moved by {length:.3f} of the base's length, cosine between two experts' moves {cosine:.3f}.".format(
            **moved
        )
    )
    print("Cosine of two experts' features: " + ", ".join(f"{point} {cosine:.3f}" for point, cosine in near.items()))
    for name in args.lists:
        print(table(of, name, trained), flush=True)


if __name__ == "__main__":
    main()
