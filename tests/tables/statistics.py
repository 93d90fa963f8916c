"""Two systems on the same pictures: their difference, with an interval over subjects."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tests.pocket import common
from tests.pocket.results import interval

from .questions import PictureSet


@dataclass(frozen=True)
class Difference:
    """One system's mean minus another's, and its 95 % bootstrap interval over subjects."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval leaves out 0, else 0."""
        return (self.low > 0) - (self.high < 0)

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


def difference(ours: list[float], theirs: list[float], subjects: list[str]) -> Difference:
    """Paired: the same pictures in the same order, and under the same looks one after the other."""
    looks = len(ours) // len(subjects)
    return Difference(*interval(torch.tensor(ours) - torch.tensor(theirs), subjects * looks))


def by_domain(losses: list[float], pictures: PictureSet) -> list[float]:
    """The mean over all, and over each domain."""
    values = torch.tensor(losses).view(-1, len(pictures.pictures)).mean(0)
    masks = [torch.tensor([p.domain == domain for p in pictures.pictures]) for domain in common.DOMAINS]
    return [values.mean().item(), *(values[mask].mean().item() for mask in masks)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
