"""Every expert's own text, carried by the conditioning itself under `afa_conds`.

A conditioning's dict may hold `afa_conds`: a list of [tensor, dict], one for each of experts 1..N-1
(expert 0 is the conditioning itself). The host keeps the key through its own nodes. Where it is absent an
expert reads expert 0's text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..experts.experts import ExpertError

CONDS_KEY = "afa_conds"
ENCODED_KEY = "afa_encoded"
"""Expert 0's text as it was when the others' were encoded: shows whether a node has changed it alone since."""

Conditioning = list[list[Any]]
"""The host's: a list of [tensor [B, L, D], dict]."""


def carry(own: Conditioning, others: list[Conditioning]) -> Conditioning:
    """Expert 0's conditioning with the others' in it, part by part."""
    own, *others = _on_one_schedule([own, *others])
    return [
        [text, {**extras, CONDS_KEY: [list(other[i]) for other in others], ENCODED_KEY: text}]
        for i, (text, extras) in enumerate(own)
    ]


def _on_one_schedule(conditionings: list[Conditioning]) -> list[Conditioning]:
    """The same parts of sampling for every expert: a text encoder under scheduled hooks gives a text for each part."""
    schedules = [
        [extras.get("clip_start_percent", 0.0) for _, extras in conditioning] for conditioning in conditionings
    ]
    if all(schedule == schedules[0] for schedule in schedules):
        return conditionings
    starts = sorted(set().union(*schedules))
    ends = [*starts[1:], 1.0]

    def during(conditioning: Conditioning, schedule: list[float], start: float, end: float) -> list[Any]:
        text, extras = conditioning[max(i for i, begins in enumerate(schedule) if begins <= start)]
        return [text, {**extras, "clip_start_percent": start, "clip_end_percent": end}]

    return [
        [during(conditioning, schedule, start, end) for start, end in zip(starts, ends, strict=True)]
        for conditioning, schedule in zip(conditionings, schedules, strict=True)
    ]


def others_texts(entry: dict[str, Any]) -> list[list[Any]]:
    """The texts of experts 1..N-1, [tensor, dict] each, of one of the host's converted conds that carries them.

    The host's ConditioningZeroOut zeroes expert 0's text, which means every expert's. Raises ExpertError where
    a node has changed expert 0's text in another way, which the others would not follow.
    """
    text, encoded = entry.get("cross_attn"), entry.get(ENCODED_KEY)
    if text is None or encoded is None or text is encoded:
        return entry[CONDS_KEY]
    if text.shape == encoded.shape and torch.equal(text, encoded.to(text)):
        return entry[CONDS_KEY]
    if text.any():
        raise ExpertError(
            "The prompt was changed after AFA Ensemble CLIP had encoded it, which would reach model_1 alone: use AFA "
            "Blend Conditioning in place of Conditioning Concat and Conditioning Average, or one CLIP for all models."
        )
    return [[torch.zeros_like(tensor), _zeroed(extras, entry)] for tensor, extras in entry[CONDS_KEY]]


def of_encoder(extras: dict[str, Any]) -> dict[str, Any]:
    """What a text encoder has made of a prompt, out of an expert's own extras.

    Numbers are the prompt's, such as Flux' guidance: a node that sets them later does so in expert 0's extras alone.
    """
    return {key: value for key, value in extras.items() if isinstance(value, Tensor)}


def every_text(change: Callable[..., Conditioning], *conditionings: Conditioning) -> Conditioning:
    """What `change` makes of these conditionings, for every expert's text apart.

    Raises ExpertError where they carry texts for different numbers of experts.
    """
    entries = [extras for conditioning in conditionings for _, extras in conditioning]
    counts = {len(extras[CONDS_KEY]) for extras in entries if CONDS_KEY in extras}
    if not counts:
        return change(*conditionings)
    if len(counts) > 1:
        numbers = " and ".join(str(count + 1) for count in sorted(counts))
        raise ExpertError(f"The prompts carry text for {numbers} experts: encode both with the same AFA Ensemble CLIP.")
    own, *others = (
        change(*(_expert(conditioning, index) for conditioning in conditionings)) for index in range(counts.pop() + 1)
    )
    return carry(own, others)


def _expert(conditioning: Conditioning, index: int) -> Conditioning:
    """One expert's own conditioning; expert 0's where there is no other."""
    chosen = []
    for text, extras in conditioning:
        own = {key: value for key, value in extras.items() if key not in (CONDS_KEY, ENCODED_KEY)}
        if index and CONDS_KEY in extras:
            text, others = extras[CONDS_KEY][index - 1]
            own.update(of_encoder(others))
        chosen.append([text, own])
    return chosen


def _zeroed(extras: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """An expert's extras with zeros wherever expert 0's are zero."""

    def is_zero(key: str) -> bool:
        return isinstance(entry.get(key), Tensor) and not entry[key].any()

    return {k: torch.zeros_like(v) if isinstance(v, Tensor) and is_zero(k) else v for k, v in extras.items()}
