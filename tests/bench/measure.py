"""Interleaved timing: every candidate runs once a round, so that a drifting machine moves all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def interleaved(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every candidate in each round, after one uncounted round."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for counted in range(rounds + 1):
        for name, run in candidates.items():
            started = time.perf_counter()
            run()
            if counted:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(above: list[float], *below: list[float]) -> list[float]:
    """Round by round, above / sum of below."""
    return [top / sum(bottoms) for top, *bottoms in zip(above, *below, strict=True)]


def spread(values: list[float]) -> str:
    """Median, and the range."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
