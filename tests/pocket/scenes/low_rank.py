"""LoRAs of the scenes' base: low-rank changes of every matrix and every convolution of its U-Net."""

import torch
from torch import nn
from torch.nn.utils import parametrize

RANK = 16


class LowRank(nn.Module):
    """A weight plus up [out, r] times down [r, in]; starts as the weight itself."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(len(weight), RANK))
        self.down = nn.Parameter(torch.empty(RANK, weight[0].numel()))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def attach(unet: nn.Module) -> nn.ModuleDict:
    """What is trained in place of the frozen weights, by the names of the layers."""
    layers = {name: m for name, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    for layer in layers.values():
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight))
    return nn.ModuleDict({name.replace(".", "/"): layer.parametrizations.weight[0] for name, layer in layers.items()})


def state(unet: nn.Module) -> dict[str, torch.Tensor]:
    """As Load LoRA reads them, float16."""
    found = {}
    for name, layer in unet.named_modules():
        if parametrize.is_parametrized(layer):
            added, ones = layer.parametrizations.weight[0], [1] * (layer.weight.ndim - 2)
            found[f"diffusion_model.{name}.lora_up.weight"] = added.up.view(*added.up.shape, *ones)
            found[f"diffusion_model.{name}.lora_down.weight"] = added.down.view(RANK, *layer.weight.shape[1:])
    return {key: tensor.detach().half().contiguous() for key, tensor in found.items()}


@torch.no_grad()
def merge(unet: nn.Module, lora: dict[str, torch.Tensor]) -> None:
    """Adds a LoRA's changes to the weights."""
    for key, up in lora.items():
        if key.endswith(".lora_up.weight"):
            down = lora[key.replace("lora_up", "lora_down")]
            weight = unet.get_submodule(key.removeprefix("diffusion_model.").removesuffix(".lora_up.weight")).weight
            weight += (up.float().flatten(1) @ down.float().flatten(1)).view_as(weight)
