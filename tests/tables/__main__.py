"""make tables: every system of the paper on the pocket experts. python -m tests.tables [--budget full|short|quick]

Goes on where a stopped run was: every finished row is on disk, under a fingerprint of the weights and settings that
it depends on. `quick` writes beside docs/results/tables.md.
"""

from __future__ import annotations

import argparse

from tests.support.comfy.bootstrap import REPOSITORY

from .budget import BUDGETS, QUICK
from .document import document
from .world import FOLDER, start


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--budget", choices=BUDGETS, default="full")
    budget = BUDGETS[ask.parse_args().budget]
    text = document(start(budget))
    path = FOLDER / "quick.md" if budget is QUICK else REPOSITORY / "docs" / "results" / "tables.md"
    path.write_text(text)
    print(f"{text}\nwritten to {path.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
