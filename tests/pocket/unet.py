"""The host's own UNetModel at the pocket width, initialised for training, and SD's noise schedule in v-prediction."""
import torch

from . import common

TIMESTEPS = 1000


def family():
    """The custom node's module, with the host importable."""
    common.use_host()
    from .node import __dict__ as names
    return names


def build():
    """-> UNetModel, float32, with PyTorch's default weights (the host's layers come uninitialised)."""
    names = family()
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    net = UNetModel(**names["UNET"], dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
    for m in net.modules():
        if isinstance(m, torch.nn.Linear):
            torch.nn.Linear.reset_parameters(m)
        elif isinstance(m, torch.nn.Conv2d):
            torch.nn.Conv2d.reset_parameters(m)
        elif isinstance(m, torch.nn.GroupNorm | torch.nn.LayerNorm):
            torch.nn.init.ones_(m.weight)
            torch.nn.init.zeros_(m.bias)
    for m in net.modules():     # residual branches and the output start at zero: every block starts as the identity
        name = type(m).__name__
        last = {"ResBlock": lambda m: m.out_layers[3], "SpatialTransformer": lambda m: m.proj_out}.get(name)
        if last:
            torch.nn.init.zeros_(last(m).weight)
            torch.nn.init.zeros_(last(m).bias)
    torch.nn.init.zeros_(net.out[2].weight)
    torch.nn.init.zeros_(net.out[2].bias)
    return net


def _attention(_, *args, **kwargs):
    from comfy.ldm.modules.attention import attention_pytorch
    return attention_pytorch(*args, **kwargs)


def predict(net, x, t, context):
    """v of latents x [B, 4, 8, 8] at integer timesteps t [B] with text context [B, 24, 64], with gradients."""
    options = {"optimized_attention_override": _attention}   # the CPU's default attention has no backward
    return net(x, t.float(), context=context, transformer_options=options)


def alphas():
    """SD's schedule: cumulative alpha [1000], float32."""
    betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def noised(z, noise, t, table):
    """-> (noisy latents, target v), v = sqrt(a) noise - sqrt(1 - a) z."""
    a = table[t].view(-1, 1, 1, 1)
    return a.sqrt() * z + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * z


def stratified(batch):
    """Timesteps [batch], one from each of `batch` equal parts of the range: less noise in the loss than independent ones."""
    return ((torch.randperm(batch) + torch.rand(batch)) * (TIMESTEPS / batch)).long().clamp_(0, TIMESTEPS - 1)
