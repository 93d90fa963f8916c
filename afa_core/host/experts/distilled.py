"""Checkpoints of one family that were distilled in different ways: they fit together, and use the guidance scale differently."""

from __future__ import annotations

import re

from .experts import Expert

FEW_STEPS = re.compile(r"turbo|schnell|lightning|distill|lcm", re.IGNORECASE)
"""In the names of models that paint in a few steps without guidance: their weights do not say so."""


def distilled_notices(experts: list[Expert]) -> list[str]:
    """A sentence where some experts are distilled and others are not."""
    kinds = (
        ("takes guidance as a number", "does not", _reads_guidance),
        ("is named as a model of few steps", "is not", _takes_few_steps),
    )
    for what, otherwise, holds in kinds:
        distilled = next((expert for expert in experts if holds(expert)), None)
        plain = next((expert for expert in experts if not holds(expert)), None)
        if distilled and plain:
            return [
                f"{distilled.label} {what}, and {plain.label} {otherwise}, so that the same settings do not suit both, and their "
                "features may not fit: ensemble models of one kind, and probe them first."
            ]
    return []


def guidance_of(expert: Expert, usual: float) -> float:
    """The guidance scale to paint with: 1 for an expert that was distilled to paint without a negative prompt, else the usual one."""
    return 1.0 if _reads_guidance(expert) or _takes_few_steps(expert) else usual


def _reads_guidance(expert: Expert) -> bool:
    return expert.architecture.reads_guidance(expert.patcher.model)


def _takes_few_steps(expert: Expert) -> bool:
    return FEW_STEPS.search(expert.label) is not None
