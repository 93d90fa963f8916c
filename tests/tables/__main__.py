"""make tables: every system of the paper on the pocket experts. python -m tests.tables [--quick]

Goes on where a stopped run was: every finished row is on disk, under a fingerprint of the weights and settings that
it depends on. --quick measures next to nothing and writes beside docs/tables.md, to see that all of it runs.
"""

from __future__ import annotations

import argparse

from tests.host.bootstrap import REPOSITORY

from .budget import QUICK, Budget
from .document import document
from .world import FOLDER, start


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--quick", action="store_true")
    quick = ask.parse_args().quick
    text = document(start(QUICK if quick else Budget()))
    path = FOLDER / "quick.md" if quick else REPOSITORY / "docs" / "tables.md"
    path.write_text(text)
    print(f"{text}\nwritten to {path.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
