"""Training pictures as latents, each encoded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import cast

import comfy.model_management
import torch
from comfy.sd import VAE
from torch import Tensor

from ...training.data.buckets import Augmentation, assign, augmented, buckets
from ...training.data.pictures import PictureError, read_picture
from ...training.data.prompt_folder import PromptFolderError, PromptItem, picture_digest
from ..architectures.frames import latent_in, without_frames
from ..experts.experts import Expert, ExpertError, latent_space
from ..experts.fingerprint import vae_digest
from .cache import Cache, cache_key

Progress = Callable[[int, int, str], None]
"""(done, total, what is done)"""
Entry = tuple[PromptItem, int | None, list[str]]
"""An item, the expert that painted it where one did, and the cache's entries of its variants."""


class PictureEncoder:
    """Latents as the sampler of `expert` takes them."""

    def __init__(self, expert: Expert, vae: VAE, cache: Cache):
        self.expert, self.vae, self.cache = expert, vae, cache

    def encode(
        self, items: list[PromptItem], resolution: int, how: Augmentation, progress: Progress
    ) -> tuple[list[Entry], list[tuple[str, str]]]:
        """The entries of the sound pictures, and (name, reason) of the others.

        Raises PromptFolderError where no picture is sound.
        """
        shapes, fixed = buckets(resolution), [vae_digest(self.vae), *latent_space(self.expert)]
        entries: list[Entry] = []
        jobs = []
        for item in items:
            shape = assign(cast(tuple[int, int], item.size), shapes)  # where there are pictures, every item has one
            names = [
                cache_key("picture", *fixed, item.content, shape, [*asdict(how).values()] if variant else [], variant)
                for variant in range(how.count)
            ]
            entries.append((item, None, names))
            if not all(map(self.cache.sound, names)):
                jobs.append((item, shape, names))
        broken = {}
        for number, (item, shape, names) in enumerate(jobs, start=1):
            comfy.model_management.throw_exception_if_processing_interrupted()
            try:
                self._encode(item, shape, how, names)
            except PictureError as error:
                broken[item.name] = str(error)
                continue
            progress(number, len(jobs), "encoding pictures")
        entries = [entry for entry in entries if entry[0].name not in broken]
        if not entries:
            name, reason = list(broken.items())[-1]
            raise PromptFolderError(f"None of the {len(items)} pictures can be used: {name}, for one, {reason}.")
        return entries, list(broken.items())

    def _encode(self, item: PromptItem, shape: tuple[int, int], how: Augmentation, names: list[str]) -> None:
        picture = _unchanged(item)
        for variant, name in enumerate(names):
            if name not in self.cache:
                pixels = augmented(picture, shape, how, item.content, variant)
                self.cache.put(name, {"latent": self._latent(pixels, name)})

    def _latent(self, pixels: Tensor, name: str) -> Tensor:
        """A picture [3, H, W] as a latent [C, h, w], scaled as the sampler's are. Raises PictureError for NaN."""
        model = self.expert.patcher.model
        with torch.inference_mode(), torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(int(name[:14], 16))  # VAEs draw from the distribution they predict
            latent = without_frames(self.vae.encode(pixels.movedim(0, -1)[None]))
            expected = model.latent_format.latent_channels
            if latent.ndim != 4 or latent.shape[1] != expected:
                raise ExpertError(
                    f"The VAE makes latents of shape {list(latent.shape[1:])}, and {self.expert.label} takes {expected} "
                    "channels: connect the VAE of its own checkpoint."
                )
            if not torch.isfinite(latent).all():
                raise PictureError("is NaN after the VAE (start ComfyUI with --fp32-vae, or connect another VAE)")
            return latent_in(model, latent.float())[0]


def _unchanged(item: PromptItem) -> Tensor:
    """The picture that the folder held when it was read: what is kept of it bears its name.

    Raises PictureError where the file is gone, or is another one by now.
    """
    path = cast(Path, item.path)
    try:
        picture = read_picture(path)
        if picture_digest(path) == item.content:
            return picture
    except OSError as error:
        raise PictureError("cannot be read") from error
    raise PictureError("was changed while the folder was read: start again")
