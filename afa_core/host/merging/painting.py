"""Painting with a candidate merge, so that a search can judge it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from torch import Tensor


@dataclass(frozen=True)
class MergePainter:
    """Paints the same prompts from the same noise with any model.

    texts:  one positive conditioning a prompt
    latent: an empty latent [B, C, H, W]: B pictures a prompt
    """

    texts: list[list]
    negative: list
    vae: VAE
    latent: Tensor
    seed: int
    settings: dict[str, Any]

    def __call__(self, model: ModelPatcher) -> Tensor:
        """Pictures [prompts * B, H, W, 3] in 0..1, prompt by prompt."""
        latent = comfy.sample.fix_empty_latent_channels(model, self.latent)
        pictures = []
        for number, positive in enumerate(self.texts):
            noise = comfy.sample.prepare_noise(latent, self.seed + number)
            samples = comfy.sample.sample(
                model, noise, positive=positive, negative=self.negative, latent_image=latent, seed=self.seed + number,
                disable_pbar=True, **self.settings,
            )  # fmt: skip
            decoded = self.vae.decode(samples)  # of some families with an axis for frames
            pictures.append(decoded.reshape(-1, *decoded.shape[-3:]).clamp(0, 1))
        return torch.cat(pictures)


def encode_prompts(clip: CLIP, prompts: list[str]) -> list[list]:
    """One conditioning a prompt."""
    return [clip.encode_from_tokens_scheduled(clip.tokenize(prompt)) for prompt in prompts]
