"""Interleaved measurement of the time that the processor itself spent: a machine shared with others moves wall time, and
this hardly. Every candidate runs once a round, first to last and last to first by turns, so that what still drifts moves
all alike."""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def cpu_seconds(run: Callable[[], object]) -> float:
    """Of this process, all threads together."""
    started = time.process_time()
    run()
    return time.process_time() - started


def interleaved(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every candidate in each round, printed as they come: a round may take long."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for name in list(candidates)[:: -1 if number % 2 else 1]:
            seconds[name].append(cpu_seconds(candidates[name]))
            print(f"round {number + 1}, {name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return seconds


def ratios(above: list[float], *below: list[float]) -> list[float]:
    """Round by round, above / sum of below."""
    return [top / sum(bottoms) for top, *bottoms in zip(above, *below, strict=True)]


def spread(values: list[float], digits: int = 3) -> str:
    """Median, and the range."""
    low, middle, high = (f"{f(values):.{digits}f}" for f in (min, statistics.median, max))
    return f"{middle} ({low} to {high})"


class Meter:
    """Seconds by name, gathered over one run or many."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.process_time()
        try:
            yield
        finally:
            self.seconds[name] += time.process_time() - started

    def timed(self, name: str, function: Callable) -> Callable:
        def run(*args, **kwargs):
            with self(name):
                return function(*args, **kwargs)

        return run
