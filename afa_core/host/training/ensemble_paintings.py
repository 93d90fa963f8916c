"""Pictures that the ensemble paints from prompts."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import comfy.model_management
from comfy.model_patcher import ModelPatcher

from ...digests import json_digest, seed_of
from ...training.data.dataset import BatchPlan, DatasetItem, LatentDataset
from ...training.data.prompt_folder import PromptFolder
from ...training.data.split import NONE_LISTED, kept_apart
from ..experts.experts import ExpertError
from ..text.carried_texts import CONDS_KEY
from .cache import Cache, cache_key
from .captions import CaptionStore, TextEncoder
from .embeddings import embeddings_in
from .encoding import DatasetSettings
from .painting import painted
from .pictures import Progress


@dataclass(frozen=True)
class Painter:
    """The ensemble as what paints prompts. encoder: of its experts' texts."""

    ensemble: ModelPatcher
    digest: str
    encoder: TextEncoder
    cache: Cache

    def dataset(
        self, folder: PromptFolder, settings: DatasetSettings, progress: Progress, watched: Set[str]
    ) -> LatentDataset:
        """A painting of every prompt, from noise that the prompt decides.

        watched: captions of held-out pictures, which are held out here as well
        Raises ExpertError where all prompts are held out, before any is painted, and where a painting is not finite.
        """
        listed = [*map(folder.lists_as_held_out, folder.items)]
        skipped = folder.skipped + [NONE_LISTED] * bool(folder.held_out and not any(listed))
        every = [item.caption for item in folder.items]
        kept = kept_apart(every, [""] * len(every), listed, settings.held_out, settings.held_out_most)
        captions = list(dict.fromkeys(every))
        kept |= {caption for caption in captions if caption in watched}
        if len(kept) == len(captions):
            raise ExpertError("Every prompt is held out, or captions a held-out picture: add others to train on.")
        self.encoder.encode(["", *captions], lambda: None)
        first = self.encoder.experts[0]
        size = painted_size(settings, first.architecture.downscale)
        fixed = [self.digest, self.encoder.digests, size, *vars(settings.painting).values()]
        names = [cache_key("ensemble painting", *fixed, caption, *embeddings_in(caption)) for caption in captions]
        missing = [place for place, name in enumerate(names) if not self.cache.sound(name)]
        for number, place in enumerate(missing, start=1):
            comfy.model_management.throw_exception_if_processing_interrupted()
            texts = [self.conditioning(text) for text in (captions[place], "")]
            latent = painted(self.ensemble, "The ensemble", texts, size, settings.painting, seed_of(captions[place]))
            self.cache.put(names[place], {"latent": latent})
            progress(number, len(missing), "painting prompts")
        items = [
            DatasetItem(
                name, caption, caption, "painted by the ensemble", 1, size, self.encoder.length(caption),
                held_out=caption in kept,
            )
            for name, caption in zip(names, captions, strict=True)
        ]  # fmt: skip
        store = CaptionStore(self.encoder, captions, [size] * len(items), lambda i, _: self.cache.get(names[i])["latent"])
        plan = BatchPlan(settings.seed, settings.batch_size, settings.caption_dropout)
        joint = first.architecture.joint_text
        return LatentDataset(items, store, len(self.encoder.experts), plan, json_digest(names), skipped, joint)

    def conditioning(self, text: str) -> list[list[Any]]:
        """A prompt as each expert reads it, in one of the host's conditionings."""
        own, *others = (self.encoder.conditioning(index, text)[0] for index in range(len(self.encoder.experts)))
        return [[own[0], {**own[1], CONDS_KEY: others}]]


def painted_size(settings: DatasetSettings, downscale: int) -> tuple[int, int]:
    """Latent (height, width) of paintings, of about the area of `resolution` squared."""
    side, stretch = settings.resolution / downscale, settings.paint_aspect**0.5
    return max(1, round(side / stretch)), max(1, round(side * stretch))
