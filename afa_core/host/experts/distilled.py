"""Checkpoints of one family that were distilled in different ways: they fit together, and use the guidance scale differently."""

from __future__ import annotations

import re

from .experts import Expert

FEW_STEPS = re.compile(r"turbo|schnell|lightning|distill|lcm", re.IGNORECASE)
"""In the names of models that paint in a few steps without guidance: their weights do not say so."""


def distilled_notices(experts: list[Expert]) -> list[str]:
    """A sentence where some experts are distilled and others are not."""
    first = experts[0]
    other = next((expert for expert in experts[1:] if _kind(expert) != _kind(first)), None)
    if other is None:
        return []
    return [
        f"{first.label} {_said(first)}, and {other.label} {_said(other)}, so that one guidance scale does not suit both, and "
        "their features may not fit: ensemble models of one kind, and probe them first."
    ]


def _kind(expert: Expert) -> tuple[bool, bool]:
    """Whether it reads guidance as a number, and whether its name says that it takes few steps."""
    return expert.architecture.reads_guidance(expert.patcher.model), FEW_STEPS.search(expert.label) is not None


def _said(expert: Expert) -> str:
    reads, few_steps = _kind(expert)
    return ("takes guidance as a number" if reads else "takes none as a number") + (" and few steps" if few_steps else "")
