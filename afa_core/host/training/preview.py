"""A picture from an aggregator in training: a plain Euler sampler over the frozen experts."""

from __future__ import annotations

from typing import Any

import torch
from comfy.sd import VAE
from torch import Tensor

from ...fusion.fusion import Fusion
from ...training.objective import TIMESTEPS, generator
from .frozen_experts import HostExperts


@torch.no_grad()
def sample_picture(
    experts: HostExperts,
    fusion: Fusion,
    vae: VAE,
    prompt: list[dict[str, Any]],
    negative: list[dict[str, Any]],
    shape: tuple[int, int, int],
    seed: int,
    steps: int = 20,
    guidance: float = 7.0,
) -> Tensor:
    """A picture [H, W, 3] in 0..1 of a fixed prompt, from latents of `shape` (C, h, w), by Euler's method.

    prompt, negative: one dict of tensors an expert, as in a training batch of one; None where its network takes none.
    """
    texts = [
        {key: torch.cat([tensor, other[key]]).to(experts.device) for key, tensor in own.items() if tensor is not None}
        for own, other in zip(prompt, negative, strict=True)
    ]
    timesteps = torch.linspace(TIMESTEPS - 1, 0, steps, device=experts.device)
    sigmas = torch.cat([experts.sigma(timesteps), torch.zeros(1, device=experts.device)])
    noise = torch.randn((1, *shape), generator=generator(seed)).to(experts.device)
    x = experts.noised(torch.zeros_like(noise), noise, sigmas[:1])
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        both, level = torch.cat([x, x]), sigma.expand(2)
        guided, unguided = experts.denoised(experts.predict(fusion, both, level, texts), both, level).chunk(2)
        denoised = unguided + guidance * (guided - unguided)
        x = x + (x - denoised) / sigma * (following - sigma)
    latent = experts.experts[0].patcher.model.process_latent_out(x)
    with torch.inference_mode():  # the mode its weights were loaded in: the host may move them
        return vae.decode(latent)[0].cpu()
