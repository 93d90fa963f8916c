"""Aggregators that `python -m tests.pocket.scenes.aggregators` has trained: those whose files are there, and the missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.pocket.scenes import aggregators

from .store import file_digest
from .world import World

SEEDS = (1, 2, 3)
OURS = "identity bias"
"""The default aggregator: the variant that the watched lists have chosen."""
FULL = "AFA"
"""As published; ablations leave out one of its parts."""
ABLATIONS = {"last point only", "without spatial location", "without timestep", "without text"}


@dataclass(frozen=True)
class Trained:
    """What one training ended with, not what was best on the watched pairs."""

    variant: str
    seed: int
    path: Path

    @property
    def name(self) -> str:
        return self.variant if self.seed == SEEDS[0] else f"{self.variant}, seed {self.seed}"

    @property
    def digest(self) -> str:
        return file_digest(self.path)


def trained(world: World, steps: int) -> list[Trained]:
    """Of all variants and seeds, the ones that are there."""
    return [found for found in _all(world, steps) if found.path.exists()]


def missing(world: World, steps: int) -> list[str]:
    return [found.path.name for found in _all(world, steps) if not found.path.exists()]


def _all(world: World, steps: int) -> list[Trained]:
    return [
        Trained(
            variant, seed, world.aggregators / f"{aggregators.stem(world.kind, variant, seed, steps)}-last.safetensors"
        )
        for variant in aggregators.VARIANTS
        for seed in SEEDS
    ]
