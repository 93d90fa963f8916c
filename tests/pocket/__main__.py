"""python tests/pocket COMMAND ...: one of COMMANDS, whatever other `tests` are installed."""
import importlib
import sys
from pathlib import Path

COMMANDS = ("train", "subjects", "thin", "scenes.checkpoints", "scenes.pairs", "scenes.train", "scenes.obeyed", "dit.train")
here = Path(__file__).resolve().parent
# Run as a folder, Python puts this folder first; the package itself must be found instead of its loose modules.
sys.path[:] = [str(here.parent), *(p for p in sys.path if Path(p or ".").resolve() != here)]
sys.path.append(str(here.parents[1]))  # for afa_core; last, since the host has a `nodes` of its own
if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
    sys.exit(f"usage: python tests/pocket {{{','.join(COMMANDS)}}} ...")
command = sys.argv.pop(1)
importlib.import_module(f"pocket.{command}").main()
