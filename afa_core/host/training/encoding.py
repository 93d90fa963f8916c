"""Pictures and prompts as the experts see them, computed once and kept on disk.

`prepare_dataset` is the way in. Everything is encoded by the host in inference mode; what comes out are
normal tensors, which may enter a gradient.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import comfy.model_management
import torch
from comfy.sd import CLIP, VAE

from ...training.data.buckets import Augmentation, assign, augmented, buckets
from ...training.data.dataset import BatchPlan, DatasetItem, LatentDataset
from ...training.data.pictures import PictureError, read_picture
from ...training.data.prompt_folder import PromptFolder, PromptFolderError, PromptItem, picture_digest
from ...training.data.split import held_out, is_listed, subset
from ..architectures.frames import latent_in, without_frames
from ..experts.experts import Expert, ExpertError
from ..experts.fingerprint import vae_digest
from ..text.captions import Store, TextEncoder
from .cache import Cache, cache_key
from .host_dataset import HostDataset, host_dataset
from .painting import Painting, paint

__all__ = [
    "DatasetSettings",
    "HostDataset",
    "prepare_dataset",
    "texts_of_prompt",
]

Progress = Callable[[int, int, str], None]
Entry = tuple[PromptItem, int | None, list[str]]
"""An item, the expert that painted it where one did, and the cache's entries of its variants."""


@dataclass(frozen=True)
class DatasetSettings:
    """held_out: the share of items kept from training, at most `held_out_most` of them
    variants: pictures made of each source where they are varied at all
    paint_...: how the experts paint the training pictures where the folder has prompts only
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
    limit: int | None = None

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
    progress: Progress | None = None,
) -> LatentDataset:
    """Encodes what is not yet on disk, and frees the memory again.

    `progress(done, total, what)` is called after every entry. Raises ExpertError or PromptFolderError where
    the parts do not fit, and the host's own exception when the artist interrupts: what was encoded stays.
    """
    progress = progress or (lambda done, total, what: None)
    plan = BatchPlan(settings.seed, settings.batch_size, settings.caption_dropout, settings.augmentation.count)
    try:
        if isinstance(source, HostDataset):
            return host_dataset(
                experts, clip, source, replace(plan, variants=1), settings.held_out, settings.held_out_most
            )
        return _from_folder(experts, clip, vae, source, settings, plan, progress)
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


def _from_folder(experts, clip, vae, folder: PromptFolder, settings, plan: BatchPlan, progress: Progress):
    if clip is None:
        raise ExpertError("No CLIP is connected, and the captions need one: connect the checkpoint's CLIP.")
    cache = Cache()
    encoder = TextEncoder(experts, clip, cache)
    items = _chosen(folder, settings.limit)
    skipped = list(folder.skipped)
    digest = [folder.digest, settings.resolution, asdict(settings.augmentation), encoder.digests]
    entries: Sequence[Entry] = []
    if folder.has_pictures:
        if vae is None:
            raise ExpertError("No VAE is connected, and the pictures need one: connect the checkpoint's VAE.")
        entries = _encode_pictures(experts[0], vae, items, settings, cache, skipped, progress)
        digest.append(vae_digest(vae))
    _encode_captions(encoder, [item.caption for item in items], progress)
    if not folder.has_pictures:
        side = settings.resolution // (
            experts[0].architecture.downscale if vae is None else vae.spacial_compression_encode()
        )
        entries = paint(experts, encoder, items, (side, side), settings.painting, cache, progress)
        digest.append([asdict(settings.painting), sorted(names for _, _, names in entries)])
    rows = [_dataset_item(item, painter, cache.shape(names[0], "latent"), encoder) for item, painter, names in entries]
    listed = [is_listed(item.name, item.caption, folder.held_out) for item, _, _ in entries]
    if folder.held_out and not any(listed):
        skipped.append(("held_out.txt", "names none of the captions or files"))
    rows = _with_held_out(rows, listed, settings)
    store = Store(
        encoder,
        [row.caption for row in rows],
        [row.size for row in rows],
        lambda item, variant: cache.get(entries[item][2][variant])["latent"],
    )
    summed = hashlib.sha256(json.dumps(digest).encode()).hexdigest()
    return LatentDataset(rows, store, len(experts), plan, summed, skipped)


def _chosen(folder: PromptFolder, limit: int | None) -> list[PromptItem]:
    if limit is None or limit >= len(folder.items):
        return folder.items
    keys = [item.content or item.caption for item in folder.items]
    return [folder.items[i] for i in subset(keys, [item.domain for item in folder.items], limit)]


def _encode_captions(encoder: TextEncoder, captions: list[str], progress: Progress) -> None:
    missing = encoder.missing(["", *captions])
    done = iter(range(1, len(missing) + 1))
    encoder.encode(["", *captions], lambda: progress(next(done), len(missing), "encoding prompts"))


def _encode_pictures(
    expert: Expert,
    vae: VAE,
    items: list[PromptItem],
    settings: DatasetSettings,
    cache: Cache,
    skipped: list[tuple[str, str]],
    progress: Progress,
) -> list[Entry]:
    """The entry of every sound picture, made by no expert; the others are reported."""
    shapes, how = buckets(settings.resolution), settings.augmentation
    fixed = [vae_digest(vae), *latent_space(expert)]
    entries, jobs = [], []
    for item in items:
        shape = assign(cast(tuple[int, int], item.size), shapes)  # where there are pictures, every item has one
        names = [
            cache_key("picture", *fixed, item.content, shape, [*asdict(how).values()] if variant else [], variant)
            for variant in range(how.count)
        ]
        entries.append((item, None, names))
        if not all(map(cache.sound, names)):
            jobs.append((item, shape, names))
    broken = set()
    for number, (item, shape, names) in enumerate(jobs, start=1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        try:
            picture = _unchanged(item)
            for variant, name in enumerate(names):
                if name not in cache:
                    pixels = augmented(picture, shape, how, item.content, variant)
                    cache.put(name, {"latent": _latent(expert, vae, pixels, name)})
        except PictureError as error:
            skipped.append((item.name, str(error)))
            broken.add(item.name)
            continue
        progress(number, len(jobs), "encoding pictures")
    entries = [entry for entry in entries if entry[0].name not in broken]
    if not entries:
        name, reason = skipped[-1]
        raise PromptFolderError(f"None of the {len(items)} pictures can be used: {name}, for one, {reason}.")
    return entries


def _unchanged(item: PromptItem) -> torch.Tensor:
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


def _latent(expert: Expert, vae: VAE, pixels: torch.Tensor, name: str) -> torch.Tensor:
    """A picture [3, H, W] as a latent [C, h, w], scaled as the sampler's are. Raises PictureError for NaN."""
    with torch.inference_mode(), torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(int(name[:14], 16))  # VAEs draw from the distribution they predict
        latent = without_frames(vae.encode(pixels.movedim(0, -1)[None]))
        expected = expert.patcher.model.latent_format.latent_channels
        if latent.ndim != 4 or latent.shape[1] != expected:
            raise ExpertError(
                f"The VAE makes latents of shape {list(latent.shape[1:])}, and {expert.label} takes {expected} channels: "
                "connect the VAE of its own checkpoint."
            )
        if not torch.isfinite(latent).all():
            raise PictureError("is NaN after the VAE (start ComfyUI with --fp32-vae, or connect another VAE)")
        return latent_in(expert.patcher.model, latent.float())[0]


def latent_space(expert: Expert) -> list[Any]:
    """What decides how a VAE's latent is scaled for an expert, for a cache's key."""
    latent = expert.patcher.model.latent_format
    return [type(latent).__name__, getattr(latent, "scale_factor", 1.0)]


def _dataset_item(item: PromptItem, painter: int | None, shape: tuple[int, ...], encoder: TextEncoder) -> DatasetItem:
    key = item.content if painter is None else item.caption
    name = item.name if painter is None else f"{item.name} by {encoder.experts[painter].label}"
    size = (shape[-2], shape[-1])
    return DatasetItem(key, name, item.caption, item.domain, item.repeats, size, encoder.length(item.caption), painter)


def _with_held_out(rows: list[DatasetItem], listed: list[bool], settings: DatasetSettings) -> list[DatasetItem]:
    """The items, marked by the folder's own list where it names some, else by hash."""
    keys = {row.key for row, named in zip(rows, listed, strict=True) if named}
    if not keys:
        domains = [row.domain for row in rows]
        keys = held_out([row.key for row in rows], domains, settings.held_out, settings.held_out_most)
    return [replace(row, held_out=row.key in keys) for row in rows]
