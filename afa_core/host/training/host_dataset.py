"""The outputs of ComfyUI's own dataset nodes in place of a folder: lists of latents and conditionings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from comfy.sd import CLIP
from torch import Tensor

from ...training.data.dataset import BatchPlan, DatasetItem, LatentDataset
from ...training.data.split import held_out
from ..architectures.frames import latent_in, without_frames
from ..experts.experts import Expert, ExpertError
from ..text.carried_texts import CONDS_KEY, of_encoder, others_texts
from ..text.conditioning import check_lengths, check_width
from .cache import Cache
from .captions import TextEncoder, for_network, network_text


@dataclass(frozen=True)
class HostDataset:
    """latents: LATENTs, of one picture or several each; conditioning: as many CONDITIONINGs."""

    latents: list[dict[str, Any]]
    conditioning: list[list[list[Any]]]


class MemoryStore:
    """latents [C, h, w], and for every item one (cond, extras) an expert; `empty` of the empty prompt."""

    def __init__(self, experts: list[Expert], latents: list[Tensor], texts: list[list], empty: list):
        self.experts, self.latents, self.texts, self.empty = experts, latents, texts, empty

    def latent(self, item: int, variant: int) -> Tensor:
        return self.latents[item]

    def text(self, expert: int, item: int, empty: bool) -> dict[str, Tensor]:
        cond, extras = self.texts[item][expert]
        if empty:
            numbers = {key: value for key, value in extras.items() if not isinstance(value, Tensor)}
            cond, own = self.empty[expert]
            extras = {**numbers, **own}
        height, width = self.latents[item].shape[-2:]
        return network_text(self.experts[expert], cond, extras, (height, width))


def host_dataset(
    experts: list[Expert], clip: CLIP | None, source: HostDataset, plan: BatchPlan, fraction: float, most: int
) -> LatentDataset:
    """Raises ExpertError where latents, texts and experts do not fit one another."""
    if len(source.latents) != len(source.conditioning):
        raise ExpertError(
            f"There are {len(source.latents)} latents and {len(source.conditioning)} conditionings: connect both outputs "
            "of one Make Training Dataset node."
        )
    empty = _empty_prompt(experts, clip) if plan.caption_dropout else []
    latents, texts = [], []
    for latent, conditioning in zip(source.latents, source.conditioning, strict=True):
        pictures = _latents(experts[0], latent)
        latents += pictures
        texts += [_texts(experts, one) for one in _one_each(conditioning, len(pictures))]
    for number, latent in enumerate(latents, start=1):
        if not latent.isfinite().all():
            raise ExpertError(
                f"Latent {number} holds NaN or infinite values: start ComfyUI with --fp32-vae, or make it with another VAE."
            )
    _adapt(experts, [*texts, empty] if empty else texts)
    keys = [hashlib.sha256(latent.numpy().tobytes()).hexdigest() for latent in latents]
    kept = held_out(keys, [""] * len(keys), fraction, most)
    items = [
        DatasetItem(
            key,
            f"latent {number}",
            "",
            "",
            1,
            (latent.shape[-2], latent.shape[-1]),
            text[0][0].shape[1],
            held_out=key in kept,
        )
        for number, (key, latent, text) in enumerate(zip(keys, latents, texts, strict=True), start=1)
    ]
    store = MemoryStore(experts, latents, texts, empty)
    joint = experts[0].architecture.joint_text
    return LatentDataset(items, store, len(experts), plan, _digest(keys, texts), mixes_lengths=joint)


def _empty_prompt(experts: list[Expert], clip: CLIP | None) -> list[Any]:
    """As each expert reads it."""
    if clip is None:
        raise ExpertError(
            "Dropping captions needs the empty prompt, and no CLIP is connected to encode it: connect one, or set "
            "caption_dropout to 0."
        )
    encoder = TextEncoder(experts, clip, Cache())
    encoder.encode([""], lambda: None)
    return [encoder.conditioning(index, "")[0] for index in range(len(experts))]


def _digest(keys: list[str], texts: list[list[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(keys).encode())
    for text in texts:
        for cond, extras in text:
            digest.update(cond.numpy().tobytes())
            for key in sorted(extras):
                value = extras[key]
                digest.update(value.numpy().tobytes() if isinstance(value, Tensor) else f"{key}={value}".encode())
    return digest.hexdigest()


def _latents(expert: Expert, latent: dict[str, Any]) -> list[Tensor]:
    samples = without_frames(latent["samples"])
    expected = expert.patcher.model.latent_format.latent_channels
    if samples.ndim != 4 or samples.shape[1] != expected:
        raise ExpertError(
            f"The latents have the shape {list(samples.shape)}, and {expert.label} takes {expected} channels: make them "
            "with the VAE of its own checkpoint."
        )
    return list(normal(latent_in(expert.patcher.model, samples)))


def _one_each(conditioning: list, count: int) -> list[list[list[Any]]]:
    """A conditioning for each of `count` pictures: ResolutionBucket hands on a list of them, other nodes one for all."""
    if not conditioning or not isinstance(conditioning[0][0], Tensor):
        if len(conditioning) != count:
            raise ExpertError(
                f"There are {count} latents and {len(conditioning)} conditionings in one bucket: connect both outputs of "
                "one node."
            )
        return conditioning
    return [conditioning] * count


def _texts(experts: list[Expert], conditioning: list[list[Any]]) -> list[tuple[Tensor, dict[str, Any]]]:
    """One (cond, what is beside it) an expert; where a conditioning carries one text only, all read it.

    Numbers, such as SDXL's sizes or Flux' guidance, are the first one's for all, as in sampling.
    """
    cond, extras = conditioning[0]
    carries = CONDS_KEY in extras
    others = others_texts({"cross_attn": cond, **extras}) if carries else [[cond, extras]] * (len(experts) - 1)
    texts = [[cond, extras], *others]
    if len(texts) != len(experts):
        raise ExpertError(
            f"The conditionings carry text for {len(texts)} experts, and {len(experts)} models are connected: connect as "
            "many CLIPs to AFA Ensemble CLIP as there are models, in the same order."
        )
    for expert, (text, _) in zip(experts, texts, strict=True):
        check_width(expert, text, "The caption")
    check_lengths([text.shape[1] for text, _ in texts], "a caption")
    numbers = {key: value for key, value in extras.items() if isinstance(value, (int, float))}
    return [(normal(text), {**numbers, **_tensors(beside)}) for text, beside in texts]


def _adapt(experts: list[Expert], texts: list[list]) -> None:
    """Puts in place of each text what the expert's network is called with; one expert after the other is in memory."""
    for index, expert in enumerate(experts):
        for text in texts:
            comfy.model_management.throw_exception_if_processing_interrupted()
            text[index] = for_network(expert, *text[index])


def _tensors(extras: dict[str, Any]) -> dict[str, Tensor]:
    return {key: normal(value) for key, value in of_encoder(extras).items() if not key.startswith("afa_")}


def normal(tensor: Tensor) -> Tensor:
    """A copy in float32 on the CPU that may enter a gradient, wherever and in whatever mode it was made."""
    with torch.inference_mode(False):
        return torch.empty(tensor.shape).copy_(tensor)
