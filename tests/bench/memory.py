"""Peak resident memory at SD1.5's size, each figure from a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

GIB = 2**30


def child(*arguments: object, module: str = "tests.bench.child", environment: dict[str, str] | None = None) -> dict[str, Any]:
    """The figures that a command prints last, measured in a process of its own."""
    output = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **(environment or {})},
    )
    return json.loads(output.stdout.splitlines()[-1])


def bench_memory(size: int = 64) -> list[str]:
    """Peak of an ensemble's evaluation against weights + aggregator + the activations of one expert."""
    lines = [
        "| experts | weights and aggregator, GiB | one expert's activations, GiB | peak, GiB | peak / sum of both | ComfyUI's estimate / used |",
        "|---|---|---|---|---|---|",
    ]
    one = child("sample", 1, size)
    activations = one["peak"] - one["before"]
    for count in (2, 3):
        figures = child("sample", count, size)
        peak = figures["peak"] - figures["empty"]
        total = figures["weights"] + activations
        lines.append(
            f"| {count} | {figures['weights'] / GIB:.2f} | {activations / GIB:.2f} | {peak / GIB:.2f} | {peak / total:.3f} | "
            f"{figures['estimate'] / (figures['peak'] - figures['before']):.2f} |"
        )
    plain, checkpointed = (child(kind, 2, size) for kind in ("train", "train checkpointed"))
    plain, checkpointed = (f["peak"] - f["before"] for f in (plain, checkpointed))
    lines.append("")
    lines.append(
        f"Training, 2 experts, batch 1: activations {plain / GIB:.2f} GiB, with `gradient_checkpointing` {checkpointed / GIB:.2f} GiB "
        f"({checkpointed / plain:.2f} of it)."
    )
    return lines
