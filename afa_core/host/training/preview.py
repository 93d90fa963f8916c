"""A picture of a fixed prompt while something is trained: a plain Euler sampler over the frozen experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from comfy.sd import VAE
from torch import Tensor

from ...fusion.fusion import Fusion
from ...training.draw import GRAIN, generator
from ..architectures.frames import latent_out
from .frozen_experts import HostExperts

STEPS = 20
GUIDANCE = 7.0


@dataclass(frozen=True)
class Preview:
    """What is painted: from latents of `shape` (C, h, w).

    prompt, negative: one dict of tensors an expert, as in a training batch of one; None where its network takes none.
    """

    vae: VAE
    prompt: list[dict[str, Any]]
    negative: list[dict[str, Any]]
    shape: tuple[int, int, int]
    seed: int

    @torch.no_grad()
    def paint(self, experts: HostExperts, fusion: Fusion) -> Tensor:
        """A picture [H, W, 3] in 0..1, by Euler's method."""
        texts: list[dict[str, Tensor | None]] = [
            {
                key: torch.cat([tensor, other[key]]).to(experts.device)
                for key, tensor in own.items()
                if tensor is not None
            }
            for own, other in zip(self.prompt, self.negative, strict=True)
        ]
        levels = torch.linspace(GRAIN - 1, 0, STEPS, device=experts.device) / GRAIN
        sigmas = torch.cat([experts.sigma(levels), torch.zeros(1, device=experts.device)])
        noise = torch.randn((1, *self.shape), generator=generator(self.seed)).to(experts.device)
        x = experts.noised(torch.zeros_like(noise), noise, sigmas[:1])
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            both, level = torch.cat([x, x]), sigma.expand(2)
            guided, unguided = experts.denoised(experts.predict(fusion, both, level, texts), both, level).chunk(2)
            denoised = unguided + GUIDANCE * (guided - unguided)
            x = x + (x - denoised) / sigma * (following - sigma)
        latent = latent_out(experts.experts[0].patcher.model, x)
        with torch.inference_mode():  # the mode its weights were loaded in: the host may move them
            pictures = self.vae.decode(latent)
        return pictures.reshape(-1, *pictures.shape[-3:])[0].cpu()
