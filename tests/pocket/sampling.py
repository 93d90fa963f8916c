"""DDIM and Euler with classifier-free guidance in plain PyTorch: quick samples without the host."""
import torch

from . import unet


@torch.no_grad()
def ddim(predict, context, empty, noise, steps, scale):
    """predict(x, t, context) -> v; context [M, L, D], empty [1, L, D], noise [M, 4, h, w] -> latents of its shape."""
    table = unet.alphas()
    times = torch.linspace(unet.TIMESTEPS - 1, 0, steps + 1).round().long()
    x = noise
    for now, nxt in zip(times[:-1], times[1:], strict=True):
        t = now.repeat(2 * len(x))
        both_context = torch.cat([context, empty.expand(len(x), -1, -1)])
        v, v0 = predict(torch.cat([x, x]), t, both_context).chunk(2)
        v = v0 + scale * (v - v0)
        a, b = table[now], table[nxt]
        z = a.sqrt() * x - (1 - a).sqrt() * v
        e = a.sqrt() * v + (1 - a).sqrt() * x
        x = z if nxt == 0 else b.sqrt() * z + (1 - b).sqrt() * e
    return x


@torch.no_grad()
def euler(predict, context, empty, noise, steps, scale):
    """The same of a velocity at times 1..0, on the straight paths of flow matching."""
    x = noise
    for now in torch.linspace(1, 0, steps + 1)[:-1]:
        both_context = torch.cat([context, empty.expand(len(x), -1, -1)])
        v, v0 = predict(torch.cat([x, x]), now.repeat(2 * len(x)), both_context).chunk(2)
        x = x - (v0 + scale * (v - v0)) / steps
    return x
