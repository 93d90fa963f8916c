"""LoRAs as experts: N experts in the memory of one, and what it costs that their patches act beside the weights."""

from __future__ import annotations

import torch

from .measure import interleaved, ratios, spread
from .memory import GIB, child
from .models import SD15, Family, random_aggregator, random_unet
from .step import call

RANK = 32
COUNT = 4
TRANSFORMERS = ("transformer_blocks", "proj_in", "proj_out")
"""Where the usual trainers put a LoRA: the layers of the U-Net's transformers."""


def random_lora(patcher, seed: int, rank: int = RANK) -> dict:
    """Patches of the host's kind in the network's own dtype, on every layer of its transformers."""
    from comfy.weight_adapter import LoRAAdapter

    random = torch.Generator().manual_seed(seed)
    patches = {}
    for key, weight in patcher.model.diffusion_model.named_parameters():
        if weight.ndim > 1 and any(name in key for name in TRANSFORMERS):
            ones = [1] * (weight.ndim - 2)
            up = torch.randn(len(weight), rank, *ones, generator=random).to(weight.dtype) * 0.01
            down = torch.randn(rank, *weight.shape[1:], generator=random).to(weight.dtype) * 0.01
            patches[f"diffusion_model.{key}"] = LoRAAdapter(set(), (up, down, float(rank), None, None, None))
    return patches


def lora_experts(patcher, count: int = COUNT) -> list:
    """Experts on one network, each with a LoRA of its own."""
    from afa_core.host.experts.experts import Expert

    experts = []
    for number in range(count):
        model = patcher.clone()
        model.add_patches(random_lora(patcher, number))
        experts.append(Expert(model, f"model_{number + 1}"))
    return experts


def bench_loras(size: int = 32, rounds: int = 5) -> list[str]:
    one, ensemble = child("sample", 1, 64), child("loras", COUNT, 64)
    peaks = [figures["peak"] - figures["empty"] for figures in (one, ensemble)]
    seconds = _steps(size, rounds)
    cost = spread(ratios(seconds["beside"], seconds["in the weights"]))
    return [
        f"Peak of {COUNT} experts that are LoRAs of rank {RANK} on one network, latent 64x64: {peaks[1] / GIB:.2f} GiB, with the "
        f"LoRAs and the aggregator; of that network alone: {peaks[0] / GIB:.2f} GiB. Ratio {peaks[1] / peaks[0]:.3f}.",
        "",
        f"A step of 2 such experts at {size}x{size} / a step with as many experts whose LoRAs are in the weights: {cost}.",
    ]


@torch.inference_mode()
def _steps(size: int, rounds: int, family: Family = SD15) -> dict[str, list[float]]:
    """Both forms of an ensemble of two; the copied form as twins, whose arithmetic is the same."""
    from afa_core.host.experts.experts import Expert
    from afa_core.host.sampling.ensemble import make_ensemble

    patcher = random_unet(0, family)
    forms = {
        "in the weights": [Expert(patcher, "model_1"), Expert(patcher, "model_2")],
        "beside": lora_experts(patcher, 2),
    }
    candidates = {}
    for name, experts in forms.items():
        model = make_ensemble(random_aggregator(experts), experts)
        model.inject_model()  # as the host's loader does; the hooks are idle while the other form runs
        candidates[name] = call(model, size)
    return interleaved(candidates, rounds)
