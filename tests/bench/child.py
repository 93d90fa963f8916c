"""One measurement of memory in a process of its own: python -m tests.bench.child KIND EXPERTS SIZE.

Prints a JSON object of bytes. Peak resident size is the process's, so every figure needs a fresh process.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import torch

from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.inprocess import Host


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Of this process alone: getrusage counts from its parent's peak where the parent did not copy itself to start it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """The peak counts from here on: what making a network takes is no part of its use."""
    Path("/proc/self/clear_refs").write_text("5")


def main(kind: str, count: int, size: int, base) -> dict[str, int]:
    """kind: "sample" (one evaluation), "loras" (the same on one network with as many LoRAs), "train" or "train
    checkpointed" (one forward and backward pass)."""
    Host(base).load_pack()
    from afa_core.host.experts.experts import Expert
    from afa_core.host.sampling.ensemble import make_ensemble
    from tests.bench.loras import lora_experts
    from tests.bench.models import random_aggregator, random_unet

    empty = resident()
    if kind == "loras":
        experts = lora_experts(random_unet(0), count)
    else:
        experts = [Expert(random_unet(seed), f"model_{seed + 1}") for seed in range(count)]
    networks = {id(expert.patcher.model): expert.patcher.model for expert in experts}.values()
    weights = sum(p.numel() * p.element_size() for network in networks for p in network.parameters())
    figures = {}
    if kind in ("sample", "loras"):
        from afa_core.host.sampling.run import activation_factor
        from tests.bench.step import call

        latent, factor = [1, 4, size, size], 1.0
        patcher = experts[0].patcher
        if count > 1:
            patcher = make_ensemble(random_aggregator(experts), experts)
            weights += sum(
                p.numel() * p.element_size() for m in patcher.get_additional_models()[-1:] for p in m.model.parameters()
            )
            factor = activation_factor(patcher, latent)
        # As the host asks its memory manager: for the prompt and the negative prompt at once.
        figures["estimate"] = round(patcher.memory_required([2 * factor, *latent[1:]]))
        patcher.inject_model()
        before = resident()
        with torch.inference_mode():
            call(patcher, size)()
    else:
        from tests.bench.training import training_pass

        run = training_pass(experts, size, checkpointing=kind.endswith("checkpointed"))
        before = resident()
        run()
    return {**figures, "empty": empty, "weights": weights, "before": before, "peak": peak()}


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), make_base(Path(folder)))))
