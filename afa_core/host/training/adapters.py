"""The host's low-rank adapters as what a student trains: made, put on its weights, and read back as a LoRA."""

from __future__ import annotations

import comfy.lora
import comfy.sd
import comfy.weight_adapter
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...training.draw import generator
from ..experts.experts import ExpertError

PREFIX = "diffusion_model."
TARGETS = ("attention", "all linear layers", "linear layers and convolutions")


def adapted_weights(patcher: ModelPatcher, targets: str) -> dict[str, Tensor]:
    """The weights that are to be adapted, by their keys. Raises ExpertError where a network has none."""
    network = patcher.model.diffusion_model
    kinds = (nn.Linear, nn.Conv2d) if targets == TARGETS[2] else nn.Linear
    found = {
        f"{PREFIX}{name}.weight": module.weight
        for name, module in network.named_modules()
        # The host applies weight wrappers in layers that it can cast.
        if isinstance(module, kinds) and hasattr(module, "weight_function")
        if targets != TARGETS[0] or "attn" in name or "attention" in name
    }
    if not found:
        raise ExpertError(
            f"A LoRA on {targets} finds nothing to train in the student, a {type(network).__name__}: choose other targets."
        )
    return found


def put_adapters(
    patcher: ModelPatcher, weights: dict[str, Tensor], rank: int, alpha: float, seed: int
) -> nn.ModuleDict:
    """Adapters on a patcher's weights, to be loaded with it. They change nothing yet.

    The host starts `up` at random and `down` at zero, where a step of `down` moves a weight far at once; here it is the
    other way round, as the LoRA paper has it.
    """
    adapters = nn.ModuleDict()
    for number, (key, weight) in enumerate(weights.items()):
        adapter = comfy.weight_adapter.LoRAAdapter.create_train(torch.empty_like(weight, device="cpu"), rank, alpha)
        nn.init.zeros_(adapter.lora_up.weight)
        nn.init.kaiming_uniform_(adapter.lora_down.weight, a=5**0.5, generator=generator(seed, number))
        adapters[key.replace(".", "/")] = adapter
        patcher.add_weight_wrapper(key, adapter)
    return adapters.to(patcher.load_device)


def with_lora(model: ModelPatcher, lora: dict[str, Tensor]) -> ModelPatcher:
    """The model with a LoRA on it, as the host's own loader puts it there."""
    return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]
