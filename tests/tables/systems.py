"""Every row of the paper's tables, made of the nodes that an artist would use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from tests.pocket import common
from tests.pocket.scenes import gate
from tests.pocket.scenes.world import EXTRAPOLATED, EXTRAPOLATION

from . import search
from .oracle import ORACLE
from .trained import OURS, Trained
from .world import BASE, World

Make = Callable[[World], list]
"""The MODEL of a row; or several that share the sampling steps in equal parts."""


@dataclass(frozen=True)
class System:
    """networks: U-Nets evaluated at every step for the prompt, and as many again for the negative prompt
    depends:  what its rows depend on beside the experts
    unguided: made so that at a guidance of 1 it fuses as `make` does at the guidance of the table
    within:   what holds while it is evaluated
    kind:     "base", "free" (a baseline without a trained aggregator), "trained", "oracle" or "student" (of an ensemble)
    """

    name: str
    node: str
    networks: int
    make: Make
    kind: str
    depends: Any = None
    unguided: Make | None = None
    within: Callable[[], AbstractContextManager] = nullcontext

    @property
    def for_noise_loss(self) -> Make:
        return self.unguided or self.make


TOP_K = (1, 2)
"""Of the experts at every position, those that the default aggregator follows most."""
AVERAGES = ("noise average", "block average")


def systems(world: World, trained: list[Trained]) -> list[System]:
    """In the paper's order."""
    rows = [*_bases(world), *_merges(world), *_fusions(world), *_switches(world)]
    ours = [found for found in trained if found.name == OURS]
    few = [ensemble(found, world.experts, k) for found in ours for k in TOP_K]
    return [*rows, *few, *(ensemble(found, world.experts) for found in trained)]


def expert_name(domain: str) -> str:
    return f"expert of {domain}"


def _bases(world: World) -> list[System]:
    named = {"base": BASE} | {expert_name(d): e for d, e in zip(common.DOMAINS, world.experts, strict=True)}
    return [System(name, "plain", 1, lambda w, c=c: [w.load(c)[0]], "base") for name, c in named.items()]


def _merges(world: World) -> list[System]:
    def merge(name: str, **widgets) -> System:
        return System(name, node, 1, lambda w: [w.call("AFAMergeModels", **w.sockets(), **widgets)[0]], "free")

    def extrapolated(w: World) -> list:
        return [w.call("AFAMergeModels", **w.sockets(), base=w.load(BASE)[0], extrapolation=EXTRAPOLATION)[0]]

    node = "AFA Merge Models"
    rows = [merge("weighted merge"), System(EXTRAPOLATED, node, 1, extrapolated, "free")]
    rows += [merge(f"MBW {preset}", preset=preset) for preset in ("GRAD_V", "SMOOTHSTEP")]
    for name, method in search.METHODS.items():
        make = lambda w, m=method: [search.searched(w, m)[0]]  # noqa: E731
        rows.append(System(name, "AFA Auto Block Merge", 1, make, "free", search.depends(world, method)))
    return rows


def fused(name: str, node: str, fusion: Callable[[World], Any], names: tuple[str, ...], **changes) -> System:
    """An ensemble of these checkpoints under a fusion."""

    def make(w: World) -> list:
        return [w.call("AFAEnsembleModel", aggregator=fusion(w), **w.sockets(names))[0]]

    return System(**{"name": name, "node": node, "networks": len(names), "make": make, "kind": "free"} | changes)


def static(name: str, method: str, names: tuple[str, ...], **widgets) -> System:
    return fused(
        name, "AFA Training-Free Fusion", lambda w: w.call("AFATrainingFreeFusion", method=method, **widgets)[0], names
    )


def _fusions(world: World) -> list[System]:
    def magic(title: str, names: tuple[str, ...]) -> System:
        # Temperatures and guidance multiply, so the temperature stands in where there is no guidance.
        sharp = ", ".join([str(world.budget.cfg)] * len(names))
        unguided = static(title, "magic fusion", names, temperatures=sharp)
        plain = static(title, "magic fusion", names)
        return System(title, plain.node, len(names), plain.make, "free", unguided=unguided.make)

    experts, budget = world.experts, world.budget
    asked = [budget.probed, budget.looks]
    return [
        magic("MagicFusion, people and animals", experts[:2]),
        magic("MagicFusion, all three", experts),
        static("MaxFusion", "max fusion", experts),
        *(static(name, name, experts) for name in (*AVERAGES, "last block average")),
        fused("probe's weights by noise level", "AFA Probe's fusion", search.probed, experts, depends=asked),
        fused(ORACLE, "no node: knows the place", lambda w: w.oracle, experts, kind="oracle"),
    ]


def _switches(world: World) -> list[System]:
    """Stock nodes: two KSamplerAdvanced, one after the other."""
    pairs = [(0, 1), (1, 0)]
    return [
        System(
            f"step switch, {common.DOMAINS[a]} then {common.DOMAINS[b]}", "two KSamplerAdvanced", 1,
            lambda w, a=a, b=b: [w.load(w.experts[a])[0], w.load(w.experts[b])[0]], "free",
        )
        for a, b in pairs
    ]  # fmt: skip


def ensemble(found: Trained, names: tuple[str, ...], top_k: int = 0) -> System:
    """With a trained aggregator: a file in models/afa. top_k: as the node has it."""

    def load(w: World):
        return w.call("LoadAFAAggregator", aggregator_name=found.path.name, top_k=top_k)[0]

    within = nullcontext
    if found.variant == "gate":
        within = lambda: patch("afa_core.fusion.fusion.own_blends", gate.gated_blends)  # noqa: E731
    name = f"{found.name}, top {top_k}" if top_k else found.name
    depends = [found.digest, top_k]
    return fused(name, "AFA Ensemble Model", load, names, kind="trained", depends=depends, within=within)
