"""Painting the captions of a list's pairs with a MODEL: the host's own nodes, the same noise for every system."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .questions import BATCH, PairList
from .world import World

SEED = 20_300
"""The first look at the held-out pictures had the seeds from 20,260 on."""
SAMPLER, SCHEDULER = "ddim", "normal"


def paint(
    world: World, models: Sequence, pairs: PairList, steps: int, painted: Callable[[slice, Tensor], None] | None = None
) -> Tensor:
    """[n, 64, 128, 3] in 0..1, one picture a pair.

    models:  one MODEL, or several that share the steps in equal parts
    painted: called after every batch with its place in the list and its latents
    """
    found = []
    for number, start in enumerate(range(0, len(pairs.captions), BATCH)):
        place = slice(start, start + BATCH)
        world.oracle.domains = pairs.domains[place]
        prompts = pairs.captions[place]
        latent = sampled(world, models, prompts, world.empty_latent(len(prompts)), steps, SEED + number)
        if painted:
            painted(place, latent["samples"])
        found.append(decoded(world, latent))
    return torch.cat(found)


def decoded(world: World, latent) -> Tensor:
    return world.call("VAEDecode", vae=world.vae, samples=latent)[0].clamp(0, 1)


def sampled(world: World, models: Sequence, prompts: list[str], latent, steps: int, seed: int):
    """By KSampler; where models share the steps, by one KSamplerAdvanced each, as an artist would chain them."""
    how = {
        "steps": steps, "cfg": world.budget.cfg, "sampler_name": SAMPLER, "scheduler": SCHEDULER,
        "positive": [[torch.cat([world.text(prompt)[0][0] for prompt in prompts]), {}]], "negative": world.text(""),
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
