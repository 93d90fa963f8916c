"""Means over pairs, and intervals over the subjects that the pairs share."""

from typing import NamedTuple

import torch
from torch import Tensor

DRAWS = 1000


class Interval(NamedTuple):
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval leaves out 0, else 0."""
        return (self.low > 0) - (self.high < 0)

    @property
    def percent(self) -> str:
        return f"{self.mean:.0%} ({self.low:.0%} to {self.high:.0%})"

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


def over_subjects(values: Tensor, pairs: list[tuple[str, str]]) -> Interval:
    """Of one value a pair [M]; pairs: the codes of the subjects."""
    return _interval(values.mean(), _resampled(values, pairs))


def share_over_subjects(part: Tensor, whole: Tensor, pairs: list[tuple[str, str]]) -> Interval | None:
    """Of the mean of `part` [M] as a share of that of `whole` [M]; None where the latter is not surely above 0."""
    if over_subjects(whole, pairs).sign < 1:
        return None
    return _interval(part.mean() / whole.mean(), _resampled(part, pairs) / _resampled(whole, pairs))


def _resampled(values: Tensor, pairs: list[tuple[str, str]]) -> Tensor:
    """The mean of one value a pair [M] in every draw [DRAWS], which are the same whatever the values.

    240 pairs of 60 subjects are no 240 independent pictures: subjects are drawn, and a pair counts as often as both of
    its subjects were, multiplied (Owen 2007, "The pigeonhole bootstrap").
    """
    names = sorted({code for pair in pairs for code in pair})
    left, right = (torch.tensor([names.index(pair[side]) for pair in pairs]) for side in (0, 1))
    picks = torch.randint(len(names), (DRAWS, len(names)), generator=torch.Generator().manual_seed(0))
    times = torch.zeros(DRAWS, len(names)).scatter_add_(1, picks, torch.ones(DRAWS, len(names)))
    weights = times[:, left] * times[:, right]
    return (weights * values).sum(1) / weights.sum(1)


def _interval(mean: Tensor, means: Tensor) -> Interval:
    # Of few pairs a draw may leave none.
    low, high = means.nanquantile(torch.tensor([0.025, 0.975])).tolist()
    return Interval(mean.item(), low, high)
