"""Aggregators that `python -m tests.pocket.scenes.aggregators` has trained: those whose files are there, and the missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.pocket.scenes import aggregators, models

from .store import file_digest
from .world import World

OURS = "identity bias"
"""The default aggregator; the watched lists choose it before the held-out ones are looked at."""
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
        return self.variant if self.seed == aggregators.SEEDS[0] else f"{self.variant}, seed {self.seed}"

    @property
    def digest(self) -> str:
        return file_digest(self.path)


def trained(world: World) -> list[Trained]:
    """Of all variants and seeds, those that have been trained to the end. OURS of near experts is committed."""
    found = _all(world)
    ours = next(one.path for one in found if one.name == OURS)
    if world.kind == "near" and not ours.exists():
        ours.write_bytes((models.WEIGHTS / "aggregator.safetensors").read_bytes())
    return [one for one in found if aggregators.has_ended(one.path, aggregators.STEPS[world.kind])]


def missing(world: World, there: list[Trained]) -> list[str]:
    """The others than there: each variant with its seeds."""
    absent: dict[str, list[str]] = {}
    for found in _all(world):
        if found not in there:
            absent.setdefault(found.variant, []).append(str(found.seed))
    return [f"{variant} of {world.kind} experts (seed {', '.join(seeds)})" for variant, seeds in absent.items()]


def _all(world: World) -> list[Trained]:
    steps = aggregators.STEPS[world.kind]
    stems = {(v, s): aggregators.stem(world.kind, v, s, steps) for v in aggregators.VARIANTS for s in aggregators.SEEDS}
    return [Trained(*of, world.aggregators / f"{stem}-last.safetensors") for of, stem in stems.items()]
