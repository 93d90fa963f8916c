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
from ..experts.fingerprint import clip_digest
from ..training.cache import Cache, cache_key
from .clip import EnsembleCLIP
from .conditioning import check_lengths, check_width


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

    def name(self, expert: int, caption: str) -> str:
        """The cache's entry of a caption."""
        return cache_key("text", self.digests[expert], caption)

    def missing(self, captions: Iterable[str]) -> dict[str, tuple[int, str]]:
        """(expert, caption) of every entry that is not on disk yet, by its name, one expert after the other."""
        captions = list(dict.fromkeys(captions))
        named = ((self.name(e, c), (e, c)) for e in range(len(self.experts)) for c in captions)
        return {name: job for name, job in named if not self.cache.sound(name)}

    def encode(self, captions: Iterable[str], tick: Callable[[], None]) -> None:
        """Encodes what is missing; `tick` after every entry."""
        for name, (expert, caption) in self.missing(captions).items():
            comfy.model_management.throw_exception_if_processing_interrupted()
            with torch.inference_mode():
                clip = self.clips[expert]
                cond, extras = clip.encode_from_tokens_scheduled(clip.tokenize(caption), show_pbar=False)[0]
                check_width(self.experts[expert], cond, "The caption")
                kept = {key: value for key, value in extras.items() if isinstance(value, Tensor)}
                self.cache.put(name, {"cond": cond.float(), **kept})
            tick()

    def conditioning(self, expert: int, caption: str) -> list[list[Any]]:
        """A caption as one of the host's conditionings."""
        tensors = self.cache.get(self.name(expert, caption))
        return [[tensors.pop("cond"), tensors]]

    def length(self, caption: str) -> int:
        """Tokens of a caption; raises ExpertError where the experts' readings cannot be matched."""
        lengths = [self.cache.shape(self.name(e, caption), "cond")[1] for e in range(len(self.experts))]
        check_lengths(lengths, "a caption")
        return lengths[0]

    def text(self, expert: int, caption: str, size: tuple[int, int]) -> dict[str, Tensor]:
        """What the expert's network takes for a caption and a latent of (height, width)."""
        cond, extras = self.conditioning(expert, caption)[0]
        return network_text(self.experts[expert], cond, extras, size)


class Store:
    """A dataset's tensors: captions by a text encoder's cache, latents by a function of (item, variant)."""

    def __init__(self, encoder: TextEncoder, captions: list[str], sizes: list[tuple[int, int]], latent: Callable):
        self.encoder, self.captions, self.sizes, self.latent = encoder, captions, sizes, latent

    def text(self, expert: int, item: int, empty: bool) -> dict[str, Tensor]:
        return self.encoder.text(expert, "" if empty else self.captions[item], self.sizes[item])


def network_text(expert: Expert, cond: Tensor, extras: dict[str, Any], size: tuple[int, int]) -> dict[str, Tensor]:
    """A conditioning through the model's own `extra_conds`, as the host's sampling does it.

    Raises ExpertError for a model that needs more than a text: inpainting, for one, needs a picture.
    """
    model = expert.patcher.model
    # Outside inference mode the host leaves the adapter of such a network to its forward pass, which is not called here.
    adapts = expert.architecture.adapts_text(model)
    with torch.inference_mode(adapts), torch.no_grad():
        noise = torch.zeros(1, model.latent_format.latent_channels, *size)
        entry = {**extras, "cross_attn": cond.float(), "model_conds": {}}
        encoded = comfy.samplers.encode_model_conds(
            model.extra_conds, [entry], noise, noise.device, "positive", latent_image=noise, denoise_mask=None, seed=0
        )[0]["model_conds"]
    tensors = {name: value.cond for name, value in encoded.items() if isinstance(value.cond, Tensor)}
    unknown = tensors.keys() - expert.architecture.own.keys()
    if unknown:
        raise ExpertError(
            f"{expert.label} reads more than a prompt ({', '.join(sorted(unknown))}): only plain "
            "text-to-picture checkpoints can be trained on."
        )
    tensors = {name: cond.clone() if cond.is_inference() else cond for name, cond in tensors.items()}
    return {name: cond.float() if cond.is_floating_point() else cond for name, cond in tensors.items()}
