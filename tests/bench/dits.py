"""What an ensemble of transformers costs beside its experts: networks of half the width of Flux.1, Anima and Z-Image.

Their blocks, heads and feed-forwards keep their proportions, and so does the aggregator: of 64 channels in place of 128.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .measure import Meter, interleaved, ratios, spread
from .memory import child

EXPERTS = 2
SIDE = 32
TOKENS = 64
PAUSES = 20_000
LIMITS = {"cost": 1.03, "switch": 50.0, "memory": 1.1}
KEEPS_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}
"""For the C library: one arena for all threads, which gives nothing back to the system, as PyTorch's allocator on a GPU."""
ANIMA = {
    "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16, "patch_spatial": 2,
    "patch_temporal": 1, "concat_padding_mask": True, "pos_emb_cls": "rope3d", "model_channels": 1024, "num_blocks": 8,
    "num_heads": 8, "crossattn_emb_channels": 512, "adaln_lora_dim": 128, "use_adaln_lora": True, "mlp_ratio": 4.0,
}  # fmt: skip
FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 384, "context_in_dim": 2048, "hidden_size": 1536,
    "mlp_ratio": 4.0, "num_heads": 12, "depth": 3, "depth_single_blocks": 5, "axes_dim": [16, 56, 56], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
}  # fmt: skip
Z_IMAGE = {
    "patch_size": 2, "in_channels": 16, "dim": 1920, "n_layers": 8, "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30,
    "axes_dims": [16, 24, 24], "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "ffn_dim_multiplier": 8 / 3,
    "multiple_of": 64, "cap_feat_dim": 1280, "qk_norm": True, "z_image_modulation": True, "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}  # fmt: skip


def bench_dits(rounds: int = 11) -> list[str]:
    lines = [
        "| | a step / the sum of its experts' own | fusion's part of a step | kernels of fusion at a fused point | reads that wait |",
        "|---|---|---|---|---|",
    ]
    missed = []
    for name in ("Flux.1", "Anima", "Z-Image"):
        step = Step(**child("step", name, rounds, module=__name__, environment=KEEPS_MEMORY))
        lines.append(f"| {name} | {spread(step.cost)} | {step.fusion:.3f} | {step.kernels:.1f} | {step.waits} |")
        missed += [f"{name}'s cost"] if median(step.cost) > LIMITS["cost"] else []
    switch = 1e6 * child("switch", module=__name__)["seconds"]
    memory = _memory()
    missed += ["a thread's switch"] if switch > LIMITS["switch"] else []
    missed += ["memory"] if memory > LIMITS["memory"] else []
    return [
        f"{EXPERTS} experts of random weights, float32, latent {SIDE}x{SIDE}, {TOKENS} tokens of text, an aggregator at every fourth block.",
        "Measured in a thread that stays on one processor, in a process that keeps the memory that it frees.",
        "",
        *lines,
        "",
        f"From one thread to another and back: {switch:.1f} microseconds. Peak memory of an evaluation / weights and activations of "
        f"one expert: {memory:.3f}.",
        "",
        f"Limits: a step {LIMITS['cost']}, a switch {LIMITS['switch']:.0f} microseconds, memory {LIMITS['memory']}: "
        + (f"missed by {', '.join(missed)}." if missed else "held."),
    ]


class Experts:
    """Networks of one family, with an aggregator of random weights."""

    def __init__(self, name: str, count: int = EXPERTS):
        self.family, make, self.inputs = _families()[name]
        self.models = [SimpleNamespace(diffusion_model=_randomised(make(), seed)) for seed in range(count)]
        self.points = self.family.points(self.models[0])

    def own(self) -> list[Tensor]:
        return [self._host(model) for model in self.models]

    def _host(self, model: Any) -> Tensor:
        given = self._named()
        return model.diffusion_model(given.pop("x"), given.pop("timesteps"), **given)

    def _named(self) -> dict[str, Any]:
        given = {**self.inputs, "x": self.inputs["x"].clone()}
        return {**dict.fromkeys(self.family.arguments), **given, "control": None, "transformer_options": {}}

    def together(self, fusion: Callable) -> Tensor:
        from afa_core.fusion.fusion import FusionState
        from afa_core.fusion.lockstep import lockstep

        both = [self.family.stream(model, self._named()) for model in self.models]
        streams, embeddings = zip(*both, strict=True)
        return lockstep(streams, self.points, fusion, FusionState(embeddings))

    def fusion(self) -> Callable:
        from afa_core.aggregator.config import AggregatorConfig
        from afa_core.aggregator.sabw import Aggregator
        from afa_core.fusion.sabw_fusion import SABWFusion

        config = AggregatorConfig(
            self.family.title, tuple(point.channels for point in self.points), len(self.models),
            text_width=self.family.text_width(self.models[0]), time_width=self.family.time_width(self.models[0]),
            fused=self.family.fused(self.points), tokens=True, hidden_size=64, num_layers=2, num_heads=4,
        )  # fmt: skip
        return SABWFusion(Aggregator(config).initialise(torch.Generator().manual_seed(0)))


def _families() -> dict[str, tuple]:
    """By name: the family, a maker of its network, and the network's inputs."""
    import comfy.ops
    from comfy.ldm.cosmos.predict2 import MiniTrainDIT
    from comfy.ldm.flux.model import Flux as FluxNetwork
    from comfy.ldm.lumina.model import NextDiT

    from afa_core.host.architectures.cosmos import Cosmos
    from afa_core.host.architectures.flux import Flux
    from afa_core.host.architectures.lumina import Lumina

    shared = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}
    random = torch.Generator().manual_seed(0)

    def inputs(width: int, *frames: int, **others: Any) -> dict[str, Any]:
        text = torch.randn(1, TOKENS, width, generator=random)
        latent = torch.randn(1, 16, *frames, SIDE, SIDE, generator=random)
        return {"x": latent, "timesteps": torch.tensor([0.5]), "context": text, **others}

    return {
        "Flux.1": (
            Flux(),
            lambda: FluxNetwork(**FLUX, **shared),
            inputs(2048, y=torch.zeros(1, 384), guidance=torch.tensor([3.5])),
        ),
        "Anima": (Cosmos(), lambda: MiniTrainDIT(**ANIMA, **shared), inputs(512, 1)),
        "Z-Image": (Lumina(), lambda: NextDiT(**Z_IMAGE, **shared), inputs(1280, num_tokens=TOKENS)),
    }


def _randomised(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    from tests.support.comfy.checkpoints import randomised

    return randomised(network, seed).requires_grad_(False)


class Counted(TorchDispatchMode):
    """Counts, in the thread of the fusion, what a GPU would run, and reads that the CPU would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.waits = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            self.waits += 1
        elif not function.is_view:
            self.kernels += 1
        return function(*args, **(kwargs or {}))


class Step(NamedTuple):
    """cost: an ensemble's step over its experts' own; fusion: its part of that step; kernels: at a fused point; waits: reads."""

    cost: list[float]
    fusion: float
    kernels: float
    waits: int


@torch.inference_mode()
def _step(name: str, rounds: int) -> Step:
    experts = Experts(name)
    fusion = experts.fusion()
    with Counted() as counted:
        experts.together(fusion)
    experts.own()
    meter = Meter()
    timed = meter.timed("fusion", fusion)
    seconds = interleaved({"together": lambda: experts.together(timed), "own": experts.own}, rounds)
    points = len(experts.family.fused(experts.points))
    part = meter.seconds["fusion"] / sum(seconds["together"])
    return Step(ratios(seconds["together"], seconds["own"]), part, counted.kernels / points, counted.waits)


def _switch() -> dict[str, float]:
    """Seconds for a call in another thread to pause and go on."""
    from afa_core.host.architectures.block_thread import paused

    def call(pause: Callable) -> None:
        for _ in range(PAUSES):
            pause(None)

    stream = paused(call, torch.device("cpu"))
    started = time.process_time()
    for _ in stream:
        pass
    return {"seconds": (time.process_time() - started) / PAUSES}


def _memory() -> float:
    """Of Flux.1's shape, each figure from a process of its own."""
    one, several = (child("memory", count, module=__name__) for count in (1, EXPERTS))
    activations = one["peak"] - one["before"]
    return (several["peak"] - several["empty"]) / (several["before"] - several["empty"] + activations)


@torch.inference_mode()
def _evaluation(count: int) -> dict[str, int]:
    """Bytes that one evaluation takes in this process."""
    from .child import forget_peak, peak, resident

    empty = resident()
    experts = Experts("Flux.1", count)
    run = (lambda: experts.together(experts.fusion())) if count > 1 else experts.own
    before = resident()
    forget_peak()
    run()
    return {"empty": empty, "before": before, "peak": peak()}


def main(kind: str, *arguments: str) -> dict[str, Any]:
    """kind: "step" (of a family, so many rounds), "switch" or "memory" (of so many experts)."""
    from tests.support.comfy.bootstrap import make_base
    from tests.support.comfy.inprocess import Host

    with tempfile.TemporaryDirectory() as folder:
        Host(make_base(Path(folder))).load_pack()
    torch.set_num_threads(1)
    if kind == "memory":
        return _evaluation(int(arguments[0]))
    if kind == "switch":
        return _switch()
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_step, arguments[0], int(arguments[1])).result()._asdict()


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
