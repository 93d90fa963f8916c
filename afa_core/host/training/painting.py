"""Training pictures that the experts paint themselves, where a folder has prompts only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher

from ...digests import seed_of
from ...training.data.prompt_folder import PromptItem
from ..architectures.frames import latent_in
from ..experts.distilled import guidance_of
from ..experts.experts import ExpertError
from ..experts.fingerprint import patcher_digest
from .cache import Cache, cache_key
from .captions import TextEncoder
from .embeddings import embeddings_in
from .pictures import Progress


@dataclass(frozen=True)
class Painting:
    """Settings of the host's sampler."""

    steps: int
    cfg: float
    sampler: str
    scheduler: str


def paint(
    encoder: TextEncoder,
    items: list[PromptItem],
    size: tuple[int, int],
    how: Painting,
    cache: Cache,
    progress: Progress,
) -> list[tuple[PromptItem, int, list[str]]]:
    """(prompt, expert, [entry in the cache]) of every prompt by every expert, at a latent of (height, width).

    All experts start a prompt from the same noise. The latents are kept as the sampler made them: no VAE
    comes between. Distilled experts paint without guidance.
    """
    jobs = []
    entries = []
    own = [replace(how, cfg=guidance_of(expert, how.cfg)) for expert in encoder.experts]
    for index, expert in enumerate(encoder.experts):
        fixed = [patcher_digest(expert.patcher), encoder.digests[index], size, *astuple(own[index])]
        for item in items:
            name = cache_key("painting", *fixed, item.caption, *embeddings_in(item.caption))
            entries.append((item, index, [name]))
            if not cache.sound(name):
                jobs.append((name, index, item.caption))
    for number, (name, index, caption) in enumerate(jobs, start=1):
        if name not in cache:  # one prompt may stand in two files
            expert, texts = encoder.experts[index], [encoder.conditioning(index, text) for text in (caption, "")]
            latent = painted(expert.patcher, expert.label, texts, size, own[index], seed_of(caption))
            cache.put(name, {"latent": latent})
        progress(number, len(jobs), "painting pictures")
    return entries


def painted(
    model: ModelPatcher, name: str, texts: Sequence[list], size: tuple[int, int], how: Painting, seed: int
) -> torch.Tensor:
    """What KSampler paints for (positive, negative) from an empty latent, [C, h, w], scaled as the sampler sees it.

    Raises ExpertError where that is not finite: it would be cached, and a later check would name another model.
    """
    positive, negative = texts
    with torch.inference_mode():
        empty = torch.zeros(1, model.model.latent_format.latent_channels, *size)
        empty = comfy.sample.fix_empty_latent_channels(model, empty)
        noise = comfy.sample.prepare_noise(empty, seed)
        samples = comfy.sample.sample(
            model, noise, how.steps, how.cfg, how.sampler, how.scheduler, positive, negative, empty,
            disable_pbar=True, seed=seed,
        )  # fmt: skip
        if not samples.isfinite().all():
            raise ExpertError(
                f"{name} paints NaN or infinite values from the prompts: start ComfyUI with --bf16-unet or --fp32-unet, or "
                "take another checkpoint."
            )
        return latent_in(model.model, samples.float())[0]
