"""Painting the captions of a picture set with a MODEL: the host's own nodes, the same noise for every system."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tests.pocket import common

from .questions import BATCH, PictureSet
from .world import World

SEED = 20_260
SAMPLER, SCHEDULER = "ddim", "normal"


def paint(world: World, models: Sequence, pictures: PictureSet, steps: int) -> Tensor:
    """[n, 64, 64, 3] in 0..1, one picture a caption.

    models: one MODEL, or several that share the steps in equal parts.
    """
    found = []
    captions = [picture.caption for picture in pictures.painted]
    for number, start in enumerate(range(0, len(captions), BATCH)):
        prompts = captions[start : start + BATCH]
        positive = _batched([world.text(prompt) for prompt in prompts])
        (latent,) = world.call("EmptyLatentImage", width=common.SIZE, height=common.SIZE, batch_size=len(prompts))
        latent = _sampled(world, models, positive, latent, steps, SEED + number)
        found.append(world.call("VAEDecode", vae=world.vae, samples=latent)[0].clamp(0, 1))
    return torch.cat(found)


def _sampled(world: World, models: Sequence, positive, latent, steps: int, seed: int):
    """By KSampler; where models share the steps, by one KSamplerAdvanced each, as an artist would chain them."""
    how = {
        "steps": steps, "cfg": world.budget.cfg, "sampler_name": SAMPLER, "scheduler": SCHEDULER,
        "positive": positive, "negative": world.text(""),
    }  # fmt: skip
    if len(models) == 1:
        return world.call("KSampler", model=models[0], seed=seed, latent_image=latent, denoise=1.0, **how)[0]
    for part, model in enumerate(models):
        last = part == len(models) - 1
        (latent,) = world.call(
            "KSamplerAdvanced", model=model, noise_seed=seed, latent_image=latent, **how,
            add_noise="enable" if part == 0 else "disable", start_at_step=steps * part // len(models),
            end_at_step=steps * (part + 1) // len(models), return_with_leftover_noise="disable" if last else "enable",
        )  # fmt: skip
    return latent


def _batched(conditionings: list) -> list:
    """One conditioning of several prompts, one a picture of the batch; shorter texts are repeated, as the host does."""
    texts = [conditioning[0][0] for conditioning in conditionings]
    length = math.lcm(*(text.shape[1] for text in texts))
    return [[torch.cat([text.repeat(1, length // text.shape[1], 1) for text in texts]), {}]]
