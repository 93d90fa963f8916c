"""What importing the pack adds to the host's start."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from .gpu_habits import MISSED

LIMIT = 50
"""Milliseconds."""
SCRIPT = """
import asyncio, json, sys, time
from pathlib import Path
from tests.support.comfy.bootstrap import PACK_NAME, make_base
from tests.support.comfy.inprocess import Host
host = Host(make_base(Path(sys.argv[1])))
loading = host.nodes.load_custom_node(str(host.base / "custom_nodes" / PACK_NAME))
started = time.process_time()
loaded = asyncio.run(loading)
print(json.dumps([loaded, time.process_time() - started]))
"""


def bench_startup(runs: int = 5) -> list[str]:
    """Milliseconds to load the pack into a host that is up, each in a fresh process.

    A first, uncounted start compiles the sources, as the first start after an installation does.
    """
    with tempfile.TemporaryDirectory() as folder:
        milliseconds = [_load(Path(folder)) for _ in range(runs + 1)][1:]
    low, high = min(milliseconds), max(milliseconds)
    median = statistics.median(milliseconds)
    missed = MISSED if median > LIMIT else ""
    return [f"Importing the pack takes {median:.0f} ms ({low:.0f} to {high:.0f}). Limit: {LIMIT} ms{missed}."]


def _load(folder: Path) -> float:
    """Milliseconds. What is compiled belongs to the pack's path, so all starts share the folder."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "base")], check=True, capture_output=True, text=True,
        cwd=Path(__file__).parents[2], env={**env, "PYTHONPYCACHEPREFIX": str(folder / "cache")},
    ).stdout  # fmt: skip
    loaded, seconds = json.loads(output.splitlines()[-1])
    assert loaded
    return seconds * 1000
