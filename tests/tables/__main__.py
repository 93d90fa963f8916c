"""make tables: every row of the paper on scenes. python -m tests.tables [lists ...] [--budget long] [--final]

By default on the watched lists, in about an hour. `--final --budget long` looks at the held-out lists and writes docs/results/tables.md:
once, at the end (tests/pocket/PROTOCOL.md). Everything else writes to .pocket/tables/. Goes on where a stopped run was: every finished
row is on disk, under a fingerprint of the weights and settings that it depends on. Aggregators come from models/afa of .pocket/base,
where `python -m tests.pocket.scenes.aggregators` leaves them; those that are absent are named.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.pocket.scenes import datasets  # noqa: E402
from tests.support.comfy.bootstrap import REPOSITORY  # noqa: E402

from .budget import BUDGETS, FULL, QUICK  # noqa: E402
from .document import document  # noqa: E402
from .questions import FINAL  # noqa: E402
from .world import FOLDER, start  # noqa: E402


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("lists", nargs="*", default=datasets.WATCHED, help="of pairs.tsv; default: the watched ones")
    ask.add_argument(
        "--final", action="store_true", help="known, experts_only and held_out, into docs/results/tables.md"
    )
    ask.add_argument("--budget", choices=BUDGETS, default=FULL.name)
    args = ask.parse_args()
    names = list(FINAL if args.final else args.lists)
    text = document(start(BUDGETS[args.budget]), names, " ".join(sys.argv[1:]))
    path = FOLDER / f"{args.budget}_{'_'.join(names)}.md"
    if args.final and args.budget != QUICK.name:
        path = REPOSITORY / "docs" / "results" / "tables.md"
    path.write_text(text)
    print(f"{text}\nwritten to {path.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
