"""What importing the pack adds to the host's start."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = """
import json, sys, time
from pathlib import Path
from tests.host.bootstrap import make_base
from tests.host.inprocess import Host
host = Host(make_base(Path(sys.argv[1])))
started = time.perf_counter()
host.load_pack()
print(json.dumps(time.perf_counter() - started))
"""


def bench_startup(runs: int = 5) -> list[str]:
    """Milliseconds to load the pack into a host that is up, each in a fresh process."""
    milliseconds = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            output = subprocess.run(
                [sys.executable, "-c", SCRIPT, folder], check=True, capture_output=True, text=True,
                cwd=Path(__file__).parents[2],
            ).stdout  # fmt: skip
            milliseconds.append(json.loads(output.splitlines()[-1]) * 1000)
    return [
        f"importing the pack: {statistics.median(milliseconds):.0f} ms ({min(milliseconds):.0f} to {max(milliseconds):.0f})"
    ]
