"""Statistics over prompts: two systems paint the same prompts from the same noise, and are compared prompt by prompt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

RESAMPLES = 10_000


@dataclass(frozen=True)
class Summary:
    """The mean of n values, its standard error, and its 95 % bootstrap interval (low, high)."""

    n: int
    mean: float
    standard_error: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class Comparison:
    """One system minus another over the same prompts.

    difference: of the two scores, prompt by prompt
    wins, losses: in how many prompts the first is higher, lower
    """

    difference: Summary
    wins: int
    losses: int


def by_prompt(prompts: Iterable[str], scores: Iterable[float]) -> dict[str, float]:
    """One score a prompt: the pictures of one prompt are averaged first, since they are not independent."""
    grouped: dict[str, list[float]] = {}
    for prompt, score in zip(prompts, scores, strict=True):
        grouped.setdefault(prompt, []).append(score)
    return {prompt: math.fsum(values) / len(values) for prompt, values in grouped.items()}


def summarise(values: Sequence[float]) -> Summary:
    """Raises ValueError where there is no value. A single one has no error or interval: they are NaN."""
    if not values:
        raise ValueError("There are no scores to summarise.")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Summary(1, mean, math.nan, math.nan, math.nan)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return Summary(len(values), mean, deviation / math.sqrt(len(values)), *bootstrap_interval(values))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile interval of the mean over resampled prompts."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.tensor(values, dtype=torch.float64)
    picked = torch.randint(len(sample), (RESAMPLES, len(sample)), generator=generator)
    low, high = sample[picked].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def compare(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Comparison:
    """Two systems' scores by prompt. Raises ValueError unless both have the same prompts."""
    if ours.keys() != theirs.keys():
        missing = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(
            f"Only systems with the same prompts can be compared: {missing[0]!r:.80} is in one of them only."
        )
    differences = [score - theirs[prompt] for prompt, score in ours.items()]
    return Comparison(summarise(differences), sum(d > 0 for d in differences), sum(d < 0 for d in differences))
