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
    wins, losses, ties: in how many prompts the first is higher, lower, equal
    p_value: two-sided exact sign test that wins and losses are equally likely; ties count for neither
    """

    difference: Summary
    wins: int
    losses: int
    ties: int
    p_value: float


def by_prompt(prompts: Iterable[str], scores: Iterable[float]) -> dict[str, float]:
    """One score a prompt: the pictures of one prompt are averaged first, since they are not independent."""
    grouped: dict[str, list[float]] = {}
    for prompt, score in zip(prompts, scores, strict=True):
        grouped.setdefault(prompt, []).append(score)
    return {prompt: math.fsum(values) / len(values) for prompt, values in grouped.items()}


def summarise(values: Sequence[float], seed: int = 0) -> Summary:
    """Raises ValueError where there is no value. A single one has no error or interval: they are NaN."""
    if not values:
        raise ValueError("There are no scores to summarise.")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Summary(1, mean, math.nan, math.nan, math.nan)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return Summary(len(values), mean, deviation / math.sqrt(len(values)), *bootstrap_interval(values, seed=seed))


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of the mean over resampled prompts."""
    generator = torch.Generator().manual_seed(seed)
    sample = torch.tensor(values, dtype=torch.float64)
    picked = torch.randint(len(sample), (resamples, len(sample)), generator=generator)
    tail = (1 - confidence) / 2
    low, high = sample[picked].mean(1).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def sign_test(wins: int, losses: int) -> float:
    """The two-sided exact p-value of a fair coin falling this unevenly or more so."""
    n, fewer = wins + losses, min(wins, losses)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    return min(1.0, 2 * tail)


def compare(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Comparison:
    """Two systems' scores by prompt. Raises ValueError unless both have the same prompts."""
    if ours.keys() != theirs.keys():
        missing = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(
            f"Only systems with the same prompts can be compared: {missing[0]!r:.80} is in one of them only."
        )
    differences = [score - theirs[prompt] for prompt, score in ours.items()]
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Comparison(summarise(differences), wins, losses, len(differences) - wins - losses, sign_test(wins, losses))
