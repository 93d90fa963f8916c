"""The host's own network of Flux.1 at a fraction of its width, with patches of one position, and flow matching."""

import torch
from safetensors.torch import load_file

from .. import common, packing, unet

WEIGHTS = common.WEIGHTS / "dit"


def build() -> torch.nn.Module:
    """The host's Flux, float32, as it is initialised for training: every block starts as the identity."""
    shape = unet.family()["FLUX"]
    import comfy.ops
    from comfy.ldm.flux.model import Flux

    torch.manual_seed(common.SEED)
    net = Flux(**_known(shape), dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        elif type(module).__name__ == "RMSNorm":
            for parameter in module.parameters(recurse=False):
                torch.nn.init.ones_(parameter)
        if name.endswith((".lin", "adaLN_modulation.1", "final_layer.linear", "vector_in.out_layer")):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    net.vector_in.requires_grad_(False)  # zero: the pooled text says nothing that its tokens do not
    return net


def base() -> torch.nn.Module:
    """The committed base, without gradients."""
    return _loaded(load_file(WEIGHTS / "base.safetensors"))


def expert(domain: str) -> torch.nn.Module:
    packed = load_file(WEIGHTS / f"{domain}.safetensors")
    return _loaded(packing.unpack(packed, load_file(WEIGHTS / "base.safetensors")))


def predict(net: torch.nn.Module, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """The velocity, noise less picture, of latents [B, 4, 8, 8 or 16] at times t [B] of 0..1, with gradients."""
    from afa_core.host.architectures.differentiable import Rebound

    options = {"optimized_attention_override": unet._attention}  # the CPU's default attention has no backward
    given = (tensor.as_subclass(Rebound) for tensor in (x, t, context))  # the host's blocks write into what they get
    return net(*given, transformer_options=options).as_subclass(torch.Tensor)


def noised(z: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """-> (noisy latents, the velocity to predict) on the straight path from a picture to noise."""
    t = t.view(-1, 1, 1, 1)
    return (1 - t) * z + t * noise, noise - z


def _known(shape: dict) -> dict:
    """With what newer hosts' Flux asks for beside."""
    from comfy.ldm.flux.model import FluxParams

    newer = {"txt_ids_dims": []}
    return {**{name: value for name, value in newer.items() if name in FluxParams.__annotations__}, **shape}


def _loaded(state: dict) -> torch.nn.Module:
    net = build()
    names = net.state_dict().keys()
    newer = {key: key if key in names else key.replace("norm.scale", "norm.weight") for key in state}  # ComfyUI 0.33.0
    net.load_state_dict({newer[key]: value.float() for key, value in state.items()})
    return net.eval().requires_grad_(False)
