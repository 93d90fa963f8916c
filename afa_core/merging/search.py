"""Searching block weights that a scorer likes: autoMBW's own search, and CMA-ES.

A strategy is a generator: it yields what each block should take and is sent the scores of the pictures painted with
it. It uses no models, files or clock: sent the same scores it yields the same vectors, so that a search is
resumed by sending it the scores of before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from .blocks import BASE, Blocks
from .recipe import Recipe, stick_shares

Vector = tuple[float, ...]
"""What every coordinate takes, 0..1: coordinate b (N-1) + n is what model n+2 takes in block b (`stick_shares`)."""

Strategy = Generator[Vector, list[float], None]

GRID = tuple(i / 10 for i in range(11))


class SearchSpace:
    """The coordinates of a merge of `models` models, block by block.

    autoMBW has one more, base_alpha, for text encoder and VAE, which our merges leave alone.
    """

    def __init__(self, models: int, blocks: Blocks):
        self.models = models
        self.blocks = blocks
        self.names = list(blocks)

    @property
    def size(self) -> int:
        return len(self.names) * (self.models - 1)

    @property
    def uniform(self) -> Vector:
        """Equal shares everywhere: the k-th model takes 1/k of those before it."""
        return tuple(1 / (n + 2) for _ in self.names for n in range(self.models - 1))

    def recipe(self, vector: Vector) -> Recipe:
        step = self.models - 1
        sticks = (vector[i : i + step] for i in range(0, len(vector), step))
        rows = {name: stick_shares(stick) for name, stick in zip(self.names, sticks, strict=True)}
        return Recipe({BASE: stick_shares(self.uniform[:step]), **rows}, self.blocks)

    def groups(self) -> list[list[int]]:
        """The coordinates in autoMBW's order: the middle block, then input and output blocks in pairs ("2x").

        So in any family: kinds of one block first, then the blocks of every other kind in pairs.
        """
        kinds = groupby(range(len(self.names)), key=lambda block: self.names[block].rstrip("0123456789"))
        sides = sorted((list(blocks) for _, blocks in kinds), key=lambda side: len(side) > 1)
        pairs = [side[i : i + 2] for side in sides for i in range(0, len(side), 2)]
        step = self.models - 1
        return [[block * step + n for block in blocks] for blocks in pairs for n in range(step)]


# ---- one number from several pictures' scores ----


def geometric(scores: Sequence[float]) -> float:
    """0 where a score is not above 0."""
    if min(scores) <= 0:
        return 0.0
    return math.exp(math.fsum(map(math.log, scores)) / len(scores))


def harmonic(scores: Sequence[float]) -> float:
    """0 where a score is not above 0."""
    if min(scores) <= 0:
        return 0.0
    return len(scores) / math.fsum(1 / score for score in scores)


TALLIES = (fmean, geometric, harmonic)
"""autoMBW's three passes judge ever more by the worst picture."""


# ---- strategies ----


def binary_mid(space: SearchSpace) -> Strategy:
    """autoMBW's "Binary Mid Pass 2x" in three passes, the defaults of sdweb-auto-MBW.

    One coordinate at a time: the low, middle and high end of its grid are tried, and the half around the best
    is kept, until one value is left.
    """
    vector = list(space.uniform)
    known = {space.uniform: (yield space.uniform)}
    for tally in TALLIES:
        for group in space.groups():
            low, high = 0, len(GRID) - 1
            while low < high:
                middle = (low + high) // 2
                tried = {}
                for i in dict.fromkeys((low, middle, high)):
                    candidate = _with(vector, group, GRID[i])
                    if candidate not in known:
                        known[candidate] = yield candidate
                    tried[i] = tally(known[candidate])
                low, high = _half_around(max(tried, key=tried.__getitem__), low, middle, high)
            vector = list(_with(vector, group, GRID[low]))


def _half_around(best: int, low: int, middle: int, high: int) -> tuple[int, int]:
    """The part of a grid to go on with: its lower, middle or upper half; one value once all were tried."""
    if high - low <= 2:
        return best, best
    if best == low:
        return low, middle
    if best == high:
        return middle, high
    return (low + middle + 1) // 2, (middle + high) // 2


def _with(vector: Sequence[float], group: Sequence[int], value: float) -> Vector:
    return tuple(value if i in group else v for i, v in enumerate(vector))


def cma_es(space: SearchSpace, seed: int) -> Strategy:
    """CMA-ES (Hansen 2016) from equal shares, by the package cmaes; ends where it has converged.

    It moves all blocks together and learns which go together, where the search above moves one at a time.
    Raises ImportError without the package.
    """
    try:
        import cmaes
    except ImportError as error:
        raise ImportError(
            'The CMA-ES search needs the package cmaes: install it into ComfyUI\'s Python with "pip install cmaes", or '
            "choose the other method."
        ) from error
    return _generations(cmaes, space, seed)


def _generations(cmaes: Any, space: SearchSpace, seed: int) -> Strategy:
    import numpy as np

    yield space.uniform
    bounds = np.tile([0.0, 1.0], (space.size, 1))
    optimiser = cmaes.CMA(np.array(space.uniform), sigma=0.2, bounds=bounds, seed=seed)
    while not optimiser.should_stop():
        generation = []
        for _ in range(optimiser.population_size):
            asked = optimiser.ask()
            scores = yield tuple(round(float(value), 6) for value in asked)
            generation.append((asked, -fmean(scores)))
        optimiser.tell(generation)


STRATEGIES: dict[str, Callable[[SearchSpace, int], Strategy]] = {
    "CMA-ES": cma_es,
    "binary mid (autoMBW)": lambda space, seed: binary_mid(space),
}
"""Strategies by the name in the node; each takes the space and a seed."""
