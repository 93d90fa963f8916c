"""How often rows without training show the subjects, by guidance: python -m tests.tables.guidance [3 5 7.5]

On watched pairs. The guidance of the tables comes from here (PROTOCOL.md).
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.pocket.scenes import datasets  # noqa: E402

from .budget import FULL  # noqa: E402
from .markdown import table  # noqa: E402
from .measure import picture_rows  # noqa: E402
from .oracle import ORACLE  # noqa: E402
from .picture_scores import SHOWN  # noqa: E402
from .questions import PairList  # noqa: E402
from .systems import systems  # noqa: E402
from .world import start  # noqa: E402

JUDGED = ("weighted merge", "noise average", ORACLE)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("guidance", nargs="*", type=float, default=[3.0, 5.0, 7.5])
    world, pairs = start(FULL), PairList(datasets.WATCHED[1], 0, FULL.looks)
    rows = [system for system in systems(world, []) if system.name in JUDGED]
    lines = []
    for guidance in ask.parse_args().guidance:
        guided = replace(world, budget=replace(FULL, cfg=guidance))
        for name, row in picture_rows(guided, rows, pairs, FULL.steps).items():
            shares = [sum(row[shown]) / len(row[shown]) for shown in SHOWN]
            lines.append([f"{guidance:g}", name, *(f"{share:.3f}" for share in shares)])
    print(table(["guidance", "row", *SHOWN], lines))


if __name__ == "__main__":
    main()
