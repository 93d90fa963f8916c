"""python -m tests.tools.soak [--prompts 200]: prints what the server holds after every round of all the ensembles.

Fails where, after a warm-up of a quarter, resident memory moves by more than 2 %, or anything that is counted grows.
Python's blocks of memory are printed and may grow: safetensors leaves some behind for every tensor that the host reads.
"""

import argparse
import gc
import sys
import tempfile
from pathlib import Path

import safetensors
from safetensors.torch import load_file

from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.checkpoints import FOLDER, ensure_checkpoints
from tests.support.comfy.diffusion_models import ensure_diffusion_models
from tests.support.comfy.server import LiveServer

from .graphs import ENSEMBLES, prompt, put_aggregators

COUNTED = ("tensors", "hooks", "networks", "patchers", "loaded", "threads", "files")
ALLOWED = 0.02


def holdings(server: LiveServer) -> dict[str, int]:
    """What the server's process holds; `resident` in bytes."""
    found = server.get("/soak")
    process = Path("/proc", str(server.process.pid))
    found["files"] = len(list((process / "fd").iterdir()))
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    found["resident"] = int(status["VmRSS"].split()[0]) * 1024
    return found


def soak(server: LiveServer, prompts: int) -> list[dict[str, int]]:
    """Runs the prompts; what was held after every round of all the ensembles."""
    rows = []
    for number in range(prompts):
        server.run(prompt(number))
        if (number + 1) % len(ENSEMBLES) == 0:
            rows.append(holdings(server))
            print(line(number + 1, rows[-1]), flush=True)
    return rows


def line(prompts: int, row: dict[str, int]) -> str:
    counted = (f"{row[name] / 2**20:.1f} MiB" if name == "tensors" else f"{row[name]}" for name in COUNTED)
    return f"| {prompts} | {row['resident'] / 2**20:.1f} MiB | {' | '.join(counted)} | {row['blocks']} |"


def complaints(rows: list[dict[str, int]]) -> list[str]:
    """What grew after the warm-up."""
    steady = rows[len(rows) // 4 :]
    resident = [row["resident"] for row in steady]
    spread = (max(resident) - min(resident)) / min(resident)
    print(f"resident memory after the warm-up: {spread:.2%} between the least and the most (allowed: {ALLOWED:.0%})")
    found = [f"resident memory moved by {spread:.2%}"] if spread > ALLOWED else []
    first, last = steady[0], steady[-1]
    grown = [f"{name} grew from {first[name]} to {last[name]}" for name in COUNTED if last[name] > first[name]]
    print("nothing that was counted grew" if not grown else "; ".join(grown))
    return found + grown


def left_by_reading(times: int = 5) -> str:
    """Python's blocks that a checkpoint leaves behind when it was read and is gone."""

    def blocks() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    read = FOLDER / "tiny_sd15_a.safetensors"
    tensors = len(load_file(read))
    before = blocks()
    for _ in range(times):
        load_file(read)
    left = (blocks() - before) / times
    return f"safetensors {safetensors.__version__} leaves {left / tensors:.1f} blocks for each of a checkpoint's {tensors} tensors"


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--prompts", type=int, default=200)
    args = ask.parse_args()
    ensure_checkpoints()
    ensure_diffusion_models()
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder))
        (base / "custom_nodes" / "soak_probe").symlink_to(Path(__file__).with_name("probe"))
        put_aggregators(base)
        print(f"| prompts | resident | {' | '.join(COUNTED)} | blocks |\n|---|---|---|{'---|' * len(COUNTED)}")
        with LiveServer(base) as server:
            found = complaints(soak(server, args.prompts))
        print(left_by_reading())
        return len(found)


if __name__ == "__main__":
    sys.exit(main())
