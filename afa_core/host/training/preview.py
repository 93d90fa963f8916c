"""A picture of a fixed prompt while something is trained: a plain Euler sampler over the frozen experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from comfy.sd import VAE
from torch import Tensor

from ...fusion.fusion import Fusion
from ...training.data.texts import Text, changed, joined
from ...training.draw import GRAIN, generator
from ..architectures.frames import latent_out
from ..experts.distilled import guidance_of
from .frozen_experts import HostExperts

STEPS = 20
GUIDANCE = 7.0


@dataclass(frozen=True)
class Preview:
    """What is painted: from latents of `shape` (C, h, w).

    prompt, negative: of each expert, as in a training batch of one
    """

    vae: VAE
    prompt: list[Text]
    negative: list[Text]
    shape: tuple[int, int, int]
    seed: int

    @torch.no_grad()
    def paint(self, experts: HostExperts, fusion: Fusion) -> Tensor:
        """A picture [H, W, 3] in 0..1, by Euler's method."""
        both = [joined(pair) for pair in zip(self.prompt, self.negative, strict=True)]
        texts = [changed(text, lambda tensor: tensor.to(experts.device)) for text in both]
        levels = torch.linspace(GRAIN - 1, 0, STEPS, device=experts.device) / GRAIN
        sigmas = torch.cat([experts.sigma(levels), torch.zeros(1, device=experts.device)])
        noise = torch.randn((1, *self.shape), generator=generator(self.seed)).to(experts.device)
        x = experts.noised(torch.zeros_like(noise), noise, sigmas[:1])
        guidance = guidance_of(experts.experts[0], GUIDANCE)
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            twice, level = torch.cat([x, x]), sigma.expand(2)
            guided, unguided = experts.denoised(experts.predict(fusion, twice, level, texts), twice, level).chunk(2)
            denoised = unguided + guidance * (guided - unguided)
            x = x + (x - denoised) / sigma * (following - sigma)
        latent = latent_out(experts.experts[0].patcher.model, x)
        with torch.inference_mode():  # the mode its weights were loaded in: the host may move them
            pictures = self.vae.decode(latent)
        return pictures.reshape(-1, *pictures.shape[-3:])[0].cpu()
