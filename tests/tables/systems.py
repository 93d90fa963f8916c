"""Every row of the paper's tables, made of the nodes that an artist would use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import search, trainings
from .world import BASE, EXPERTS, SHIPPED, World, shipped_digest

Make = Callable[[World], list]
"""The MODEL of a row; or several that share the sampling steps in equal parts."""


@dataclass(frozen=True)
class System:
    """networks: U-Nets evaluated at every step for the prompt, and as many again for the negative prompt
    depends:  what its rows depend on beside the experts
    unguided: made so that at a guidance of 1 it fuses as `make` does at the guidance of the table
    """

    name: str
    node: str
    networks: int
    make: Make
    depends: Any = None
    unguided: Make | None = None
    trained: bool = False

    @property
    def for_noise_loss(self) -> Make:
        return self.unguided or self.make


AFA = "AFA"


def systems(world: World) -> list[System]:
    """In the paper's order."""
    return [*_experts(), *_merges(world), *_fusions(world), *_switches(), *_trained(world)]


def _experts() -> list[System]:
    return [System(name, "plain", 1, lambda w, n=name: [w.load(n)[0]]) for name in (BASE, *EXPERTS)]


def _merges(world: World) -> list[System]:
    def merge(**widgets) -> Make:
        return lambda w: [w.call("AFAMergeModels", **w.sockets(), **widgets)[0]]

    node = "AFA Merge Models"
    rows = [System("weighted merging", node, 1, merge())]
    rows += [System(f"MBW {preset}", node, 1, merge(preset=preset)) for preset in ("GRAD_V", "SMOOTHSTEP")]
    for name, method in search.METHODS.items():
        make = lambda w, m=method: [search.searched(w, m)[0]]  # noqa: E731
        rows.append(System(name, "AFA Auto Block Merge", 1, make, search.depends(world, method)))
    return rows


def _fusions(world: World) -> list[System]:
    def fuse(names: tuple[str, ...] = EXPERTS, **widgets) -> Make:
        def make(w: World) -> list:
            (fusion,) = w.call("AFATrainingFreeFusion", **widgets)
            return [w.call("AFAEnsembleModel", aggregator=fusion, **w.sockets(names))[0]]

        return make

    def magic(title: str, names: tuple[str, ...]) -> System:
        # Temperatures and guidance multiply, so the temperature stands in where there is no guidance.
        sharp = ", ".join([str(world.budget.cfg)] * len(names))
        plain, unguided = (fuse(names, method="magic fusion", temperatures=t) for t in ("", sharp))
        return System(title, node, len(names), plain, unguided=unguided)

    node = "AFA Training-Free Fusion"
    pair = " and ".join(_short(name) for name in EXPERTS[:2])
    averages = ("noise average", "block average", "last block average")
    return [
        magic(f"MagicFusion, {pair}", EXPERTS[:2]),
        magic("MagicFusion, all three", EXPERTS),
        *(System(name, node, len(EXPERTS), fuse(method=name)) for name in averages),
    ]


def _switches() -> list[System]:
    """Stock nodes: two KSamplerAdvanced, one after the other."""

    def switch(first: str, second: str) -> System:
        name = f"step switch, {_short(first)} then {_short(second)}"
        return System(name, "two KSamplerAdvanced", 1, lambda w: [w.load(first)[0], w.load(second)[0]])

    return [switch(EXPERTS[0], EXPERTS[1]), switch(EXPERTS[1], EXPERTS[0])]


def _trained(world: World) -> list[System]:
    rows = [ensemble(title, training.file, training.digest) for title, training in trainings.ablations(world).items()]
    return [*rows, ensemble(AFA, SHIPPED, shipped_digest())]


def ensemble(title: str, file: str, digest: str, names: tuple[str, ...] = EXPERTS) -> System:
    """With a trained aggregator: a file in models/afa."""

    def make(w: World) -> list:
        (aggregator,) = w.call("LoadAFAAggregator", aggregator_name=file)
        return [w.call("AFAEnsembleModel", aggregator=aggregator, **w.sockets(names))[0]]

    return System(title, "AFA Ensemble Model", len(names), make, digest, trained=True)


def _short(name: str) -> str:
    return name.removeprefix("pocket_")
