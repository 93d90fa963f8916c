"""Nodes that act on guidance or on a model's whole prediction: an ensemble has those of its first expert alone."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher

from .compiled_blocks import KEY as COMPILED
from .experts import Expert

OPTIONS = ("sampler_", "model_function_wrapper", "denoise_mask_function")
"""How the host's options begin by which nodes change what surrounds a network."""


def whole_model_notices(experts: list[Expert]) -> list[str]:
    """A sentence for every expert behind the first with a node that has no effect in an ensemble."""
    first, *others = experts
    lost = {expert.label: sorted(_hooks(expert.patcher) - _hooks(first.patcher)) for expert in others}
    return [
        f"{label} has a node that changes guidance or the whole prediction ({', '.join(hooks)}), and an ensemble takes such nodes "
        f"from {first.label} alone: put it behind AFA Ensemble Model."
        for label, hooks in lost.items()
        if hooks
    ]


def _hooks(patcher: ModelPatcher) -> set[str]:
    """Where nodes changed what surrounds the network, by the host's names."""
    options = {name for name in patcher.model_options if name.startswith(OPTIONS)}
    return options | {
        kind for kind, wrappers in patcher.wrappers.items() if any(wrappers[k] for k in wrappers.keys() - {COMPILED})
    }
