"""Pictures that the ensemble paints from prompts, and a dataset of them beside pictures of the user's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import comfy.model_management
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...training.data.dataset import BatchPlan, DatasetItem, LatentDataset
from ...training.data.dataset import Store as TensorStore
from ...training.data.prompt_folder import PromptFolder
from ...training.data.split import NONE_LISTED, held_out, is_listed
from ..text.captions import Store, TextEncoder
from ..text.carried_texts import CONDS_KEY
from .cache import Cache, cache_key
from .encoding import DatasetSettings
from .painting import painted, picture_seed
from .pictures import Progress

FINEST = 20
"""Repeats of an item that comes less often, at most, with which a share of the samples is met."""


@dataclass(frozen=True)
class Painter:
    """The ensemble as what paints prompts. encoder: of its experts' texts."""

    ensemble: ModelPatcher
    digest: str
    encoder: TextEncoder
    cache: Cache

    def dataset(
        self, folder: PromptFolder, settings: DatasetSettings, progress: Progress, watched: Set[str] = frozenset()
    ) -> LatentDataset:
        """A painting of every prompt, from noise that the prompt decides.

        watched: captions of held-out pictures, which are held out here as well
        Raises ExpertError where a painting is not finite.
        """
        captions = list(dict.fromkeys(item.caption for item in folder.items))
        self.encoder.encode(["", *captions], lambda: None)
        first = self.encoder.experts[0]
        size = painted_size(settings, first.architecture.downscale)
        fixed = [self.digest, self.encoder.digests, size, *vars(settings.painting).values()]
        names = [cache_key("ensemble painting", *fixed, caption) for caption in captions]
        missing = [place for place, name in enumerate(names) if not self.cache.sound(name)]
        for number, place in enumerate(missing, start=1):
            comfy.model_management.throw_exception_if_processing_interrupted()
            texts = [self.conditioning(text) for text in (captions[place], "")]
            latent = painted(self.ensemble, "The ensemble", texts, size, settings.painting, picture_seed(captions[place]))
            self.cache.put(names[place], {"latent": latent})
            progress(number, len(missing), "painting prompts")
        kept = {item.caption for item in folder.items if is_listed(item.name, item.caption, folder.held_out)}
        skipped = folder.skipped + [NONE_LISTED] * bool(folder.held_out and not kept)
        kept = kept or held_out(captions, [""] * len(captions), settings.held_out, settings.held_out_most)
        kept |= watched.intersection(captions)
        items = [
            DatasetItem(
                name, caption, caption, "painted by the ensemble", 1, size, self.encoder.length(caption),
                held_out=caption in kept,
            )
            for name, caption in zip(names, captions, strict=True)
        ]  # fmt: skip
        store = Store(self.encoder, captions, [size] * len(items), lambda i, _: self.cache.get(names[i])["latent"])
        plan = BatchPlan(settings.seed, settings.batch_size, settings.caption_dropout)
        source = hashlib.sha256(json.dumps(names).encode()).hexdigest()
        return LatentDataset(items, store, len(self.encoder.experts), plan, source, skipped)

    def conditioning(self, text: str) -> list[list[Any]]:
        """A prompt as each expert reads it, in one of the host's conditionings."""
        own, *others = (self.encoder.conditioning(index, text)[0] for index in range(len(self.encoder.experts)))
        return [[own[0], {**own[1], CONDS_KEY: others}]]


def painted_size(settings: DatasetSettings, downscale: int) -> tuple[int, int]:
    """Latent (height, width) of paintings, of about the area of `resolution` squared."""
    side, stretch = settings.resolution / downscale, settings.paint_aspect**0.5
    return max(1, round(side / stretch)), max(1, round(side * stretch))


class JoinedStore:
    """Several datasets' tensors as one's. places: the store of each item, and its number there."""

    def __init__(self, places: Sequence[tuple[TensorStore, int]]):
        self.places = places

    def latent(self, item: int, variant: int) -> Tensor:
        store, number = self.places[item]
        return store.latent(number, variant)

    def text(self, expert: int, item: int, empty: bool) -> dict[str, Tensor]:
        store, number = self.places[item]
        return store.text(expert, number, empty)


def joined(pictures: LatentDataset, paintings: LatentDataset, share: float) -> LatentDataset:
    """Both as one dataset, where `share` of what is trained on are paintings; of 0 and of 1, one part is held out alone."""
    parts = (pictures, paintings)
    repeats = _repeats([sum(item.repeats for item in part.items if not item.held_out) for part in parts], share)
    kept = [
        (part.store, number, replace(item, repeats=item.repeats * repeat))
        for part, repeat in zip(parts, repeats, strict=True)
        for number, item in enumerate(part.items)
        if repeat or item.held_out
    ]
    items, store = [item for *_, item in kept], JoinedStore([(store, number) for store, number, _ in kept])
    source = hashlib.sha256(f"{pictures.source} {paintings.source}".encode()).hexdigest()
    skipped = pictures.skipped + paintings.skipped
    return LatentDataset(items, store, pictures.experts, pictures.plan, source, skipped)


def _repeats(counts: Sequence[int], share: float) -> list[int]:
    """How often an item of each of two parts is repeated, so that `share` of all samples are of the second.

    counts: samples of each part without repeats
    """
    if 0 in counts or share in (0, 1):
        return [int(share < 1), int(share > 0)]
    ratio = (share / counts[1]) / ((1 - share) / counts[0])
    most = Fraction(max(ratio, 1 / ratio)).limit_denominator(FINEST)
    return [most.denominator, most.numerator] if ratio > 1 else [most.numerator, most.denominator]
