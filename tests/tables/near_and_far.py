"""How far apart the sets of experts are, and what the probe says of each: python -m tests.tables.near_and_far

Prints a Markdown table of the watched lists, a column a set whose weights are there.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.pocket.scenes import datasets, models, rows  # noqa: E402
from tests.pocket.scenes import world as scenes  # noqa: E402
from tests.tools.probe_scenes import LISTS, probed  # noqa: E402

from .budget import FULL  # noqa: E402
from .markdown import table  # noqa: E402
from .world import World, start, trained_kinds  # noqa: E402


def distances(kind: str) -> dict[str, str]:
    """Of the weights from the base, and of the features from one another."""
    moved = models.moves(kind)
    features = rows.cosines(scenes.start(kind), datasets.listed("watched_known"))
    return {
        "weights moved, of the base's length": f"{moved['length']:.3f}",
        "cosine of two experts' moves": f"{moved['cosine']:.3f}",
        **{f"cosine of features, {point}": f"{cosine:.3f}" for point, cosine in features.items()},
    }


def by_probe(world: World) -> dict[str, str]:
    """What the node AFA Probe reports."""
    found = {}
    for name in LISTS:
        _, report = probed(world, [*world.sockets().values()], name)
        found["least cosine of two experts' weights"] = f"{min(map(min, report['weight_cosine'])):.3f}"
        found |= {f"{name}: {title}": text for title, text in _of_report(report).items()}
    return found


def _of_report(report: dict) -> dict[str, str]:
    mix, routed = report["fixed_mix"], report["routers"]
    share = {name: f"{row['gain']:.1%} ({row['low']:.1%} to {row['high']:.1%})" for name, row in routed.items()}
    return {
        "verdict": report["verdict"],
        "correlation of errors": f"{report['diversity']:.3f}",
        "best fixed mix, less than the best expert": f"{mix['gain']:.1%}",
        "mix at every place, less than that": share["mix"],
        "mix by picture, less than that": share["picture"],
        "kappa": f"{report['kappa']:.2f}",
    }


def main() -> None:
    near = start(FULL)
    columns = {kind: {**distances(kind), **by_probe(near.of_kind(kind))} for kind in trained_kinds()}
    names = next(iter(columns.values()))
    print(table(["", *columns], [[name, *(found[name] for found in columns.values())] for name in names]))


if __name__ == "__main__":
    main()
