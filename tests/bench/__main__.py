"""make bench: measures, prints, and writes docs/performance.md. `python -m tests.bench step` runs one part."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch

from tests.host.bootstrap import REPOSITORY, make_base
from tests.host.inprocess import Host

from .memory import bench_memory
from .startup import bench_startup
from .step import bench_step
from .training import bench_training

PARTS = {
    "startup": ("Start-up", bench_startup),
    "memory": ("Memory, SD1.5 size, bf16, latent 64x64", bench_memory),
    "step": ("A step of an ensemble, SD1.5 size, bf16, batch 2", bench_step),
    "training": ("A training step", bench_training),
}


def main(names: list[str]) -> None:
    report = REPOSITORY / "docs" / "performance.md"
    sections = []
    with tempfile.TemporaryDirectory() as folder:
        host = None
        for name in names or PARTS:
            title, bench = PARTS[name]
            if host is None and name in ("step", "training"):
                host = Host(make_base(Path(folder)))
                host.load_pack()
            sections.append(f"## {title}\n\n" + "\n".join(bench()) + "\n")
            print(sections[-1], flush=True)
    if not names:
        cores, threads = os.cpu_count(), torch.get_num_threads()
        head = (
            f"# Performance\n\nPrinted by `make bench` on {date.today()}: {platform.machine()}, {cores} cores, {threads} threads, "
            f"torch {torch.__version__}, no GPU. Ratios are medians of interleaved rounds in one process, with their range.\n"
        )
        report.parent.mkdir(exist_ok=True)
        report.write_text("\n".join([head, *sections]))
        print(f"written to {report.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main(sys.argv[1:])
