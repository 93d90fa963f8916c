"""Captions by the experts' own text encoders, on disk; and what each expert's network is given of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy.sd import CLIP
from torch import Tensor

from ..experts.experts import Expert, ExpertError
from ..experts.fingerprint import clip_digest, patcher_digest
from ..text.clip import EnsembleCLIP
from ..text.conditioning import check_lengths, check_width
from .cache import Cache, cache_key
from .embeddings import embeddings_in


class TextEncoder:
    """Every expert's reading of a caption. A plain CLIP reads for all.

    Raises ExpertError where there are not as many text encoders as experts.
    """

    def __init__(self, experts: list[Expert], clip: CLIP, cache: Cache):
        clips = clip.members() if isinstance(clip, EnsembleCLIP) else [clip] * len(experts)
        if len(clips) != len(experts):
            raise ExpertError(
                f"The CLIP carries {len(clips)} text encoders, and {len(experts)} models are connected: connect as many "
                "CLIPs to AFA Ensemble CLIP as there are models, in the same order."
            )
        self.experts, self.clips, self.cache = experts, clips, cache
        known = {id(c): clip_digest(c) for c in clips}
        self.digests = [known[id(c)] for c in clips]
        self.adapters = [patcher_digest(expert.patcher) if expert.adapts_text else "" for expert in experts]

    def name(self, expert: int, caption: str) -> str:
        """The cache's entry of a caption."""
        return cache_key("text", self.digests[expert], caption, *embeddings_in(caption))

    def name_for_network(self, expert: int, caption: str) -> str:
        """The cache's entry of a caption as the expert's network is called with it: behind an adapter, where it has one."""
        name, adapter = self.name(expert, caption), self.adapters[expert]
        return cache_key("adapted text", name, adapter) if adapter else name

    def missing(self, captions: Iterable[str]) -> dict[str, tuple[int, str]]:
        """(expert, caption) of every entry that is not on disk yet, by its name, one expert after the other."""
        captions = list(dict.fromkeys(captions))
        named = ((self.name(e, c), (e, c)) for e in range(len(self.experts)) for c in captions)
        return {name: job for name, job in named if not self.cache.sound(name)}

    def encode(self, captions: Iterable[str], tick: Callable[[], None]) -> None:
        """Encodes what is missing; `tick` after every entry."""
        captions = list(dict.fromkeys(captions))
        for name, (expert, caption) in self.missing(captions).items():
            comfy.model_management.throw_exception_if_processing_interrupted()
            with torch.inference_mode():
                clip = self.clips[expert]
                cond, extras = clip.encode_from_tokens_scheduled(clip.tokenize(caption), show_pbar=False)[0]
                check_width(self.experts[expert], cond, "The caption")
                kept = {key: value for key, value in extras.items() if isinstance(value, Tensor)}
                self.cache.put(name, {"cond": cond.float(), **kept})
            tick()
        for index, expert in enumerate(self.experts):
            for caption in captions if self.adapters[index] else ():
                name = self.name_for_network(index, caption)
                if not self.cache.sound(name):
                    comfy.model_management.throw_exception_if_processing_interrupted()
                    self.cache.put(name, {"cond": adapted(expert, *self.conditioning(index, caption)[0])})

    def conditioning(self, expert: int, caption: str) -> list[list[Any]]:
        """A caption as one of the host's conditionings."""
        tensors = self.cache.get(self.name(expert, caption))
        return [[tensors.pop("cond"), tensors]]

    def length(self, caption: str) -> int:
        """Tokens of a caption; raises ExpertError where the experts' readings cannot be matched."""
        names = [self.name_for_network(e, caption) for e in range(len(self.experts))]
        lengths = [self.cache.shape(name, "cond")[1] for name in names]
        check_lengths(lengths, "a caption")
        return lengths[0]

    def text(self, expert: int, caption: str, size: tuple[int, int]) -> dict[str, Tensor]:
        """What the expert's network takes for a caption and a latent of (height, width)."""
        tensors = self.cache.get(self.name_for_network(expert, caption))
        return network_text(self.experts[expert], tensors.pop("cond"), tensors, size)


class CaptionStore:
    """A dataset's tensors: captions by a text encoder's cache, latents by a function of (item, variant)."""

    def __init__(self, encoder: TextEncoder, captions: list[str], sizes: list[tuple[int, int]], latent: Callable):
        self.encoder, self.captions, self.sizes, self.latent = encoder, captions, sizes, latent

    def text(self, expert: int, item: int, empty: bool) -> dict[str, Tensor]:
        return self.encoder.text(expert, "" if empty else self.captions[item], self.sizes[item])


def adapted(expert: Expert, cond: Tensor, extras: dict[str, Any]) -> Tensor:
    """What the network's own adapter makes of a conditioning [1, L, D], on the CPU; brings the network into memory.

    Once a caption, since no training changes the adapter. The host runs it in inference mode alone, and takes what has no
    T5 tokens beside it as adapted.
    """
    comfy.model_management.load_models_gpu([expert.patcher])
    with torch.inference_mode():
        text = _network_text(expert, cond, extras, (8, 8), expert.patcher.load_device)["c_crossattn"].cpu()
    with torch.inference_mode(False):
        return text.clone()  # fit for gradients


def for_network(expert: Expert, cond: Tensor, extras: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """A conditioning as `network_text` takes it: behind the network's adapter, where it has one."""
    return (adapted(expert, cond, extras), {}) if expert.adapts_text else (cond, extras)


def network_text(expert: Expert, cond: Tensor, extras: dict[str, Any], size: tuple[int, int]) -> dict[str, Tensor]:
    """A conditioning through the model's own `extra_conds`, as the host's sampling does it.

    Raises ExpertError for a model that needs more than a text: inpainting, for one, needs a picture.
    """
    with torch.inference_mode(False), torch.no_grad():
        return _network_text(expert, cond, extras, size, torch.device("cpu"))


def _network_text(
    expert: Expert, cond: Tensor, extras: dict[str, Any], size: tuple[int, int], device: torch.device
) -> dict[str, Tensor]:
    model = expert.patcher.model
    noise = torch.zeros(1, model.latent_format.latent_channels, *size, device=device)
    entry = {**extras, "cross_attn": cond.float(), "model_conds": {}}
    encoded = comfy.samplers.encode_model_conds(
        model.extra_conds, [entry], noise, device, "positive", latent_image=noise, denoise_mask=None, seed=0
    )[0]["model_conds"]
    tensors = {name: value.cond for name, value in encoded.items() if isinstance(value.cond, Tensor)}
    unknown = tensors.keys() - expert.architecture.own.keys()
    if unknown:
        raise ExpertError(
            f"{expert.label} reads more than a prompt ({', '.join(sorted(unknown))}): only plain "
            "text-to-picture checkpoints can be trained on."
        )
    return {name: cond.float() if cond.is_floating_point() else cond for name, cond in tensors.items()}
