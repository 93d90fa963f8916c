"""make bench: measures, prints, and writes docs/results/performance.md. `python -m tests.bench step64` renews one part of it.

What stands above the page's parts is written by hand.
"""

from __future__ import annotations

import platform
import re
import sys
import tempfile
from datetime import date
from functools import partial
from pathlib import Path

import torch

from tests.support.comfy.bootstrap import REPOSITORY, make_base
from tests.support.comfy.inprocess import Host

from .distilling import bench_distilling
from .dits import bench_dits
from .economical import bench_economical
from .gpu_habits import MISSED, bench_gpu_habits
from .kernels import bench_kernels
from .loading import bench_loading
from .loras import bench_loras
from .memory import bench_memory
from .models import DTYPE, SDXL
from .preparation import bench_preparation
from .selective import bench_selective
from .selective_step import bench_selective_step
from .startup import bench_startup
from .step import bench_step
from .training import bench_training

REPORT = REPOSITORY / "docs" / "results" / "performance.md"
PARTS = {
    "startup": ("Start-up", bench_startup),
    "loading": ("Loading an ensemble", bench_loading),
    "memory": ("Memory, SD1.5 size, latent 64x64", bench_memory),
    "step32": ("A step of an ensemble, SD1.5 size, latent 32x32, batch 2", partial(bench_step, 32, rounds=9)),
    "step64": ("A step of an ensemble, SD1.5 size, latent 64x64, batch 2", partial(bench_step, 64, rounds=3)),
    "sdxl64": (
        "A step of an ensemble, SDXL size, latent 64x64, batch 2",
        partial(bench_step, 64, rounds=3, most=2, family=SDXL),
    ),
    "kernels": ("Other ways to compute an aggregator's self-attention", bench_kernels),
    "loras": ("LoRAs as experts, SD1.5 size", bench_loras),
    "training": ("A training step, SD1.5 size, 2 experts, batch 1", bench_training),
    "distilling": ("Distilling with labels first, SD1.5 size, 2 experts, latent 32x32, batch 1", bench_distilling),
    "preparation": ("Preparing the trainer's data, on the scenes", bench_preparation),
    "selective": ("Doing less: selective ensembling, on the near experts", bench_selective),
    "selective_step": (
        "Doing less at SD1.5 size, latent 32x32, batch 2, 3 experts",
        bench_selective_step,
    ),
    "dits": ("A step of an ensemble of transformers, half the width", bench_dits),
    "gpu_habits": ("Kernels and waits on a GPU", bench_gpu_habits),
    "economical": ("A lighter aggregator, and one trained to do without, on the near experts", bench_economical),
}
IN_PROCESS = (
    "gpu_habits", "loading", "step32", "step64", "sdxl64", "kernels", "loras", "training", "distilling", "selective_step",
)  # fmt: skip
"""Parts that need the host in this process; the others start processes of their own, or make their own host."""


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        host, missed = None, False
        for name in names or PARTS:
            if host is None and name in IN_PROCESS:
                host = Host(make_base(Path(folder)))
                host.load_pack()
            title, bench = PARTS[name]
            text = "\n".join(bench())
            print(f"## {title}\n\n{text}\n", flush=True)
            missed |= MISSED in text
            write_section(title, f"{text}\n\nMeasured on {date.today()}, {machine(title)}.\n")
    print(f"written to {REPORT.relative_to(REPOSITORY)}")
    if missed:
        sys.exit(1)


def machine(title: str) -> str:
    """Of what a part was measured on; with the dtype of the networks whose size its title names."""
    dtype = f", {str(DTYPE).removeprefix('torch.')}" if " size" in title else ""
    return f"{platform.machine()}, torch {torch.__version__}{dtype}"


def write_section(title: str, text: str) -> None:
    """Puts a part's text into the page, in the place of what it said before."""
    page = REPORT.read_text()
    sections = dict(re.findall(r"^## (.+)\n\n((?:(?!## ).*\n)*)", page, re.MULTILINE))
    sections[title] = text
    ordered = [f"## {known}\n\n{sections[known].strip()}\n" for known, _ in PARTS.values() if known in sections]
    REPORT.write_text("\n".join([page[: page.index("## ") - 1], *ordered]))


if __name__ == "__main__":
    main(sys.argv[1:])
