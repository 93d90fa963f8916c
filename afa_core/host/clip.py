"""The experts' text encoders as one CLIP: every prompt is read by each, in one conditioning."""

from __future__ import annotations

from typing import Any

import comfy.hooks
from comfy.sd import CLIP

from .conditioning import CONDS_KEY
from .experts import ExpertError


class EnsembleCLIP(CLIP):
    """Acts as the first CLIP; what it encodes carries the others' texts under `afa_conds`.

    LoRAs, skipped layers and hooks that are put on it act on every one.
    """

    def __init__(self, clips: list[CLIP]):
        super().__init__(no_init=True)
        vars(self).update(vars(clips[0]))
        self.others = clips[1:]

    def clone(self, *args, **kwargs) -> EnsembleCLIP:
        return EnsembleCLIP([super().clone(*args, **kwargs), *(o.clone(*args, **kwargs) for o in self.others)])

    def add_patches(self, patches, strength_patch=1.0, strength_model=1.0):
        taken = [super().add_patches(patches, strength_patch, strength_model)]
        taken += [other.add_patches(patches, strength_patch, strength_model) for other in self.others]
        return taken[0]

    def encode_from_tokens_scheduled(self, tokens, *args, **kwargs) -> list[list[Any]]:
        own = super().encode_from_tokens_scheduled(tokens, *args, **kwargs)
        others = [self._alike(o).encode_from_tokens_scheduled(tokens, *args, **kwargs) for o in self.others]
        return [
            [text, {**extras, CONDS_KEY: [list(other[i]) for other in others]}] for i, (text, extras) in enumerate(own)
        ]

    def _alike(self, other: CLIP) -> CLIP:
        """Another expert's CLIP with the settings that nodes have put on this one."""
        other = other.clone()
        other.layer_idx = self.layer_idx
        other.use_clip_schedule = self.use_clip_schedule
        other.apply_hooks_to_conds = self.apply_hooks_to_conds
        hooks = self.patcher.forced_hooks
        if hooks is not None:
            other.patcher.forced_hooks = hooks.clone()
            target = comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Clip)
            other.patcher.register_all_hook_patches(hooks, target)
        return other


def ensemble_clip(clips: list[CLIP], labels: list[str]) -> EnsembleCLIP:
    """Raises ExpertError where the CLIPs do not read the same tokens."""
    for clip, label in zip(clips[1:], labels[1:], strict=True):
        mine, theirs = type(clips[0].cond_stage_model).__name__, type(clip.cond_stage_model).__name__
        if mine != theirs:
            raise ExpertError(
                f"{label} is a {theirs} and {labels[0]} a {mine}: an ensemble needs text encoders of one architecture."
            )
    return EnsembleCLIP([clip.clone() for clip in clips])
