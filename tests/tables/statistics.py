"""Two systems on the same pairs, and intervals over their subjects."""

from __future__ import annotations

import torch

from tests.pocket.scenes import statistics
from tests.pocket.scenes.statistics import Interval

from .questions import PairList


def difference(ours: list[float], theirs: list[float], pairs: PairList) -> Interval:
    """One system's mean minus another's on the same pairs, with a 95 % bootstrap interval over subjects."""
    return over_subjects([a - b for a, b in zip(ours, theirs, strict=True)], pairs.codes)


def over_subjects(values: list[float], codes: list[tuple[str, str]]) -> Interval:
    return statistics.over_subjects(torch.tensor(values), codes)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
