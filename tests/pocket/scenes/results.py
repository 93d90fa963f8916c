"""What the scenes' rows lose: python -m tests.pocket.scenes.results [lists ...] [--kind far] [--steps N]

By default on the watched tenth. The held-out lists, known, experts_only and held_out, are looked at once, at the end
(PROTOCOL.md). Prints Markdown. An aggregator that was trained from several seeds is one row.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path  # noqa: E402

from afa_core.aggregator.file import load_aggregator  # noqa: E402

from . import aggregators, datasets, models, rows, statistics, world  # noqa: E402

AGAINST = "AFA"


def table(of: world.World, name: str, trained: dict[str, list[Path]], against: str) -> str:
    """trained: an aggregator's files, one a seed, by its name; against: the row that all others are compared with."""
    scenes = datasets.sample(name)
    found = rows.measure(of, scenes, trained)
    codes = [(row[0].subject.code, row[1].subject.code) for row in scenes.drawn]
    subjects = {code for pair in codes for code in pair}
    lines = [f"\n## {of.kind} experts, {name}: {len(codes)} pairs of {len(subjects)} subjects\n"]
    lines += [f"| row | loss | {against} minus it, 95 % over subjects |", "|---|---|---|"]
    for row, losses in found.losses.items():
        apart = found.losses.get(against, losses) - losses
        cell = statistics.over_subjects(apart, codes) if apart.any() else ""
        seeds = f" ({len(trained[row])} seeds)" if len(trained.get(row, [])) > 1 else ""
        lines.append(f"| {row}{seeds} | {losses.mean():.4f} | {cell} |")
    free = min((row for row in found.losses if row not in (*trained, rows.ORACLE)), key=lambda row: found.losses[row].mean())
    gap = found.losses[free] - found.losses[rows.ORACLE]
    for row, points in found.routing.items():
        where = ", ".join(f"{point} {weight.mean():.2f}" for point, weight in points.items())
        right = statistics.over_subjects(list(points.values())[-1], codes)
        won = statistics.share_over_subjects(found.losses[free] - found.losses[row], gap, codes)
        gained = f"{won.percent} of the gap from {free} to the oracle" if won else f"no sure gap between {free} and the oracle"
        lines += [f"\n{row}: {gained} by place;"]
        lines += [f"weight of the right expert in its half, at the prediction {right}; by point: {where}."]
    return "\n".join(lines)


def curve(file: Path) -> str:
    """The loss of the watched pairs over a training."""
    measured = load_aggregator(file).training["held_out"]
    return f"{file.stem}: watched " + ", ".join(f"{loss:.4f} after {step} steps" for step, loss in measured) + "."


def of_all_seeds(of: world.World, steps: int) -> dict[str, list[Path]]:
    """The aggregators that have been trained for so many steps."""
    files = {n: [aggregators.last(of, n, seed, steps) for seed in aggregators.SEEDS] for n in aggregators.variants(of.kind)}
    ended = {name: [file for file in some if aggregators.has_ended(file, steps)] for name, some in files.items()}
    return {name: some for name, some in ended.items() if some}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("lists", nargs="*", default=datasets.WATCHED, help="of pairs.tsv, or training; default: the watched ones")
    ask.add_argument("--kind", default="near", choices=world.KINDS)
    ask.add_argument("--steps", type=int, help="of the aggregators' trainings")
    ask.add_argument("--against", default=AGAINST, help="the row that all others are compared with")
    args = ask.parse_args()
    of, steps = world.start(args.kind), args.steps or aggregators.STEPS[args.kind]
    trained = of_all_seeds(of, steps)
    moved, near = models.moves(args.kind), rows.cosines(of, datasets.listed("watched_known"))
    print(
        "Weights moved by {length:.3f} of the base's length, cosine between two experts' moves {cosine:.3f}.".format(
            **moved
        )
    )
    print("Cosine of two experts' features: " + ", ".join(f"{point} {cosine:.3f}" for point, cosine in near.items()))
    for file in (file for files in trained.values() for file in files):
        print(curve(file))
    for name in args.lists:
        print(table(of, name, trained, args.against), flush=True)


if __name__ == "__main__":
    main()
