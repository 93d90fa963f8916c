"""Checkpoints of one family that were distilled in different ways: they fit together, and mean different things by guidance."""

from __future__ import annotations

import logging
import re

from .experts import Expert

FEW_STEPS = re.compile(r"turbo|schnell|lightning|distill|lcm", re.IGNORECASE)
"""In the names of models that paint in a few steps without guidance: their weights do not say so."""


def warn_of_distilled(experts: list[Expert]) -> None:
    """Logs a warning where some experts of a family with flow matching are distilled and others are not."""
    first = experts[0]
    if not first.architecture.tokens:
        return
    other = next((expert for expert in experts[1:] if _kind(expert) != _kind(first)), None)
    if other is not None:
        logging.warning(
            f"AFA: {first.label} {_said(first)}, and {other.label} {_said(other)}: they mean different things by guidance, and "
            "features of the two may not fit. Ensemble models of one kind, and probe them first."
        )


def _kind(expert: Expert) -> tuple[bool, bool]:
    """Whether it reads guidance as a number, and whether its name says that it takes few steps."""
    return expert.architecture.reads_guidance(expert.patcher.model), FEW_STEPS.search(expert.label) is not None


def _said(expert: Expert) -> str:
    reads, few_steps = _kind(expert)
    return ("takes guidance as a number" if reads else "takes none") + (" and few steps" if few_steps else "")
