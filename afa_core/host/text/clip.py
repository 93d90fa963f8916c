"""The experts' text encoders as one CLIP: every prompt is read by each, in one conditioning."""

from __future__ import annotations

from typing import Any

import comfy.hooks
from comfy.sd import CLIP

from ..experts.experts import ExpertError
from .carried_texts import carry


class EnsembleCLIP(CLIP):
    """Acts as the first CLIP; what it encodes carries the others' texts under `afa_conds`.

    LoRAs, skipped layers and hooks that are put on it act on every one; what each had before stays its own.
    """

    def __init__(self, clips: list[CLIP], hooks_before: list[comfy.hooks.Hook]):
        super().__init__(no_init=True)
        self.__dict__.update(vars(clips[0]))
        self.others = clips[1:]
        self.hooks_before = hooks_before

    def clone(self, *args, **kwargs) -> EnsembleCLIP:
        others = (other.clone(*args, **kwargs) for other in self.others)
        return EnsembleCLIP([super().clone(*args, **kwargs), *others], self.hooks_before)

    def add_patches(self, patches, strength_patch=1.0, strength_model=1.0):
        taken = [super().add_patches(patches, strength_patch, strength_model)]
        taken += [other.add_patches(patches, strength_patch, strength_model) for other in self.others]
        return taken[0]

    def set_tokenizer_option(self, option_name, value) -> None:
        super().set_tokenizer_option(option_name, value)
        for other in self.others:
            other.set_tokenizer_option(option_name, value)

    def clip_layer(self, layer_idx) -> None:
        super().clip_layer(layer_idx)
        for other in self.others:
            other.clip_layer(layer_idx)

    def encode_from_tokens_scheduled(self, tokens, *args, **kwargs) -> list[list[Any]]:
        own, *others = (clip.encode_from_tokens_scheduled(tokens, *args, **kwargs) for clip in self.members())
        return carry(own, others)

    def members(self) -> list[CLIP]:
        """Every expert's CLIP by itself, with all that was put on the ensemble's."""
        return [super().clone(), *(self._hooked(other) for other in self.others)]

    def _hooked(self, other: CLIP) -> CLIP:
        """Another expert's CLIP with the hooks that SetClipHooks has put on this one; it sets attributes."""
        if _hooks(self) == self.hooks_before:
            return other
        other = other.clone()
        other.use_clip_schedule = self.use_clip_schedule
        other.apply_hooks_to_conds = self.apply_hooks_to_conds
        other.patcher.forced_hooks = self.patcher.forced_hooks.clone()
        target = comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Clip)
        other.patcher.register_all_hook_patches(self.patcher.forced_hooks, target)
        return other


def _hooks(clip: CLIP) -> list[comfy.hooks.Hook]:
    group = clip.patcher.forced_hooks
    return [] if group is None else group.hooks


def ensemble_clip(clips: list[CLIP], labels: list[str]) -> EnsembleCLIP:
    """Raises ExpertError where the CLIPs do not read the same tokens."""
    for clip, label in zip(clips[1:], labels[1:], strict=True):
        if _kind(clip) != _kind(clips[0]):
            raise ExpertError(
                f"{label} is a text encoder of {_kind(clip)} and {labels[0]} one of {_kind(clips[0])}: an ensemble needs "
                "the text encoders of checkpoints of one architecture."
            )
    return EnsembleCLIP([clip.clone() for clip in clips], _hooks(clips[0]))


def _kind(clip: CLIP) -> str:
    """What a CLIP is made for, by its tokenizer: SD1, SD2, SDXL, SDXLRefiner..."""
    return type(clip.tokenizer).__name__.removesuffix("Tokenizer")
