"""A LoRA and a ControlNet for the toys of SD1.5's topology, written where the host's loaders look."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file


def make_lora(
    base: Path, model, clip=None, name: str = "tiny_lora", seed: int = 0, rank: int = 2, everywhere=False, dora=False
) -> str:
    """A LoRA on every attention of the U-Net, and of the text encoder where one is given.

    everywhere: on the U-Net's other layers too, convolutions included
    """
    generator = torch.Generator().manual_seed(seed)
    named = {f"diffusion_model.{key}": m for key, m in model.model.diffusion_model.named_modules()}
    if clip is not None:
        named |= {f"text_encoders.{key}": m for key, m in clip.cond_stage_model.named_modules()}
    state = {}
    for key, module in named.items():
        if key.endswith(("to_q", "to_v", "to_out.0", "q_proj", "v_proj")) or everywhere and is_layer(module):
            rows, *columns = module.weight.shape
            up = torch.randn(rows, rank, *[1] * (len(columns) - 1), generator=generator) * 0.3
            down = torch.randn(rank, *columns, generator=generator) * module.weight[0].numel() ** -0.5
            state[f"{key}.lora_up.weight"], state[f"{key}.lora_down.weight"] = up, down
            if dora:
                state[f"{key}.dora_scale"] = 1 + torch.rand(rows, *[1] * len(columns), generator=generator)
    path = base / "models" / "loras" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    return path.name


def is_layer(module) -> bool:
    return isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))


def make_controlnet(base: Path, model, name: str = "tiny_controlnet") -> str:
    """The host's own ControlNet class over this U-Net's shapes, with random weights."""
    import comfy.ops
    from comfy.cldm.cldm import ControlNet

    from tests.support.comfy.checkpoints import randomised

    config = {
        k: v
        for k, v in model.model.model_config.unet_config.items()
        if k not in ("out_channels", "disable_unet_model_creation")
    }
    config.pop("transformer_depth_output", None)
    net = ControlNet(**config, hint_channels=3, operations=comfy.ops.disable_weight_init, device="cpu")
    state = {f"control_model.{key}": tensor.contiguous() for key, tensor in randomised(net, 9).state_dict().items()}
    path = base / "models" / "controlnet" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    return path.name
