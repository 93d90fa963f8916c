"""Pictures and prompts as the experts see them, computed once and kept on disk.

`prepare_dataset` is the way in. Everything is encoded by the host in inference mode; what comes out are
normal tensors, which may enter a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import comfy.model_management
import torch
from comfy.sd import CLIP, VAE

from ...digests import json_digest
from ...training.data.buckets import Augmentation
from ...training.data.dataset import BatchPlan, DatasetItem, LatentDataset
from ...training.data.prompt_folder import PromptFolder, PromptItem
from ...training.data.split import NONE_LISTED, kept_apart, subset
from ..experts.experts import Expert, ExpertError
from ..experts.fingerprint import vae_digest
from .cache import Cache
from .captions import CaptionStore, TextEncoder
from .embeddings import embeddings_in
from .host_dataset import HostDataset, host_dataset
from .painting import Painting, paint
from .pictures import Entry, PictureEncoder, Progress


@dataclass(frozen=True)
class DatasetSettings:
    """held_out: the share of items kept from training, at most `held_out_most` of them
    variants: pictures made of each source where they are varied at all
    paint_...: how the experts paint the training pictures where the folder has prompts only
    paint_aspect: width over height of what an ensemble paints for its student
    limit:    use at most this many items, evenly of all domains
    """

    resolution: int = 512
    seed: int = 0
    batch_size: int = 8
    caption_dropout: float = 0.1
    held_out: float = 0.1
    held_out_most: int = 64
    random_crop: bool = False
    flip: bool = False
    colour: float = 0.0
    variants: int = 4
    paint_steps: int = 20
    paint_cfg: float = 7.0
    paint_sampler: str = "euler"
    paint_scheduler: str = "normal"
    paint_aspect: float = 1.0
    limit: int | None = None

    def of_source(self, source: PromptFolder | HostDataset) -> dict[str, Any]:
        """What a dataset of this source follows from, by name, as far as nothing need be encoded to know it."""
        if isinstance(source, HostDataset):
            return {"caption_dropout": self.caption_dropout}
        return {
            "contents of prompt_folder": source.digest[:8],
            "resolution": self.resolution,
            "caption_dropout": self.caption_dropout,
            **asdict(self.augmentation),
        }

    @property
    def plan(self) -> BatchPlan:
        return BatchPlan(self.seed, self.batch_size, self.caption_dropout, self.augmentation.count)

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(self.random_crop, self.flip, self.colour, self.variants)

    @property
    def painting(self) -> Painting:
        return Painting(self.paint_steps, self.paint_cfg, self.paint_sampler, self.paint_scheduler)


def prepare_dataset(
    experts: list[Expert],
    clip: CLIP | None,
    vae: VAE | None,
    source: PromptFolder | HostDataset,
    settings: DatasetSettings,
    progress: Progress = lambda done, total, what: None,
) -> LatentDataset:
    """Encodes what is not yet on disk, and frees the memory again.

    `progress(done, total, what)` is called after every entry. Raises ExpertError or PromptFolderError where
    the parts do not fit, and the host's own exception when the queue is cancelled: what was encoded stays.
    """
    try:
        if isinstance(source, HostDataset):
            plan = replace(settings.plan, variants=1)
            return host_dataset(experts, clip, source, plan, settings.held_out, settings.held_out_most)
        return _from_folder(experts, clip, vae, source, settings, progress)
    finally:
        # In the mode the loaders ran in: weights that are moved in another one are of no further use.
        with torch.inference_mode():
            comfy.model_management.unload_all_models()


def texts_of_prompt(
    experts: list[Expert], clip: CLIP, text: str, size: tuple[int, int]
) -> list[dict[str, torch.Tensor | None]]:
    """One prompt as every expert reads it at a latent of (height, width): c_crossattn [1, L, D], y [1, A].

    Not while training: the text encoders would push the experts out of memory.
    """
    encoder = TextEncoder(experts, clip, Cache())
    encoder.encode([text], lambda: None)
    rows = [encoder.text(index, text, size) for index in range(len(experts))]
    return [{"y": None, **row} for row in rows]


def _from_folder(
    experts: list[Expert],
    clip: CLIP | None,
    vae: VAE | None,
    folder: PromptFolder,
    settings: DatasetSettings,
    progress: Progress,
) -> LatentDataset:
    if clip is None:
        raise ExpertError("No CLIP is connected, and the captions need one: connect the checkpoint's CLIP.")
    if folder.has_pictures and vae is None:
        raise ExpertError("No VAE is connected, and the pictures need one: connect the checkpoint's VAE.")
    cache = Cache()
    encoder = TextEncoder(experts, clip, cache)
    items = _chosen(folder, settings.limit)
    skipped = list(folder.skipped)
    digest = [folder.digest, settings.resolution, asdict(settings.augmentation), encoder.digests]
    digest += (found for item in items if (found := embeddings_in(item.caption)))
    _encode_captions(encoder, [item.caption for item in items], progress)  # first: a CLIP may not fit
    entries: Sequence[Entry]
    if folder.has_pictures:
        pictures = PictureEncoder(experts[0], vae, cache)
        entries, broken = pictures.encode(items, settings.resolution, settings.augmentation, progress)
        skipped += broken
        digest.append(vae_digest(vae))
    else:
        side = settings.resolution // (
            experts[0].architecture.downscale if vae is None else vae.spacial_compression_encode()
        )
        entries = paint(encoder, items, (side, side), settings.painting, cache, progress)
        digest.append([asdict(settings.painting), sorted(names for _, _, names in entries)])
    rows = [_dataset_item(item, painter, cache.shape(names[0], "latent"), encoder) for item, painter, names in entries]
    listed = [folder.lists_as_held_out(item) for item, _, _ in entries]
    if folder.held_out and not any(listed):
        skipped.append(NONE_LISTED)
    kept = kept_apart(
        [row.key for row in rows], [row.domain for row in rows], listed, settings.held_out, settings.held_out_most
    )
    rows = [replace(row, held_out=row.key in kept) for row in rows]
    store = CaptionStore(
        encoder,
        [row.caption for row in rows],
        [row.size for row in rows],
        lambda item, variant: cache.get(entries[item][2][variant])["latent"],
    )
    plan = settings.plan if folder.has_pictures else replace(settings.plan, variants=1)  # paintings are not augmented
    mixes = experts[0].architecture.joint_text
    return LatentDataset(rows, store, len(experts), plan, json_digest(digest), skipped, mixes)


def _chosen(folder: PromptFolder, limit: int | None) -> list[PromptItem]:
    if limit is None or limit >= len(folder.items):
        return folder.items
    keys = [item.content or item.caption for item in folder.items]
    return [folder.items[i] for i in subset(keys, [item.domain for item in folder.items], limit)]


def _encode_captions(encoder: TextEncoder, captions: list[str], progress: Progress) -> None:
    missing = encoder.missing(["", *captions])
    done = iter(range(1, len(missing) + 1))
    encoder.encode(["", *captions], lambda: progress(next(done), len(missing), "encoding prompts"))


def _dataset_item(item: PromptItem, painter: int | None, shape: tuple[int, ...], encoder: TextEncoder) -> DatasetItem:
    key = item.content if painter is None else item.caption
    name = item.name if painter is None else f"{item.name} by {encoder.experts[painter].label}"
    size = (shape[-2], shape[-1])
    return DatasetItem(key, name, item.caption, item.domain, item.repeats, size, encoder.length(item.caption), painter)

