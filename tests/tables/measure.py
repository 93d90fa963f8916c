"""Measures one row after the other; what is on disk already is not measured again."""

from __future__ import annotations

from typing import Any

import torch

from tests.pocket.scenes import judge

from .followed import Followed
from .noise_loss import noise_losses
from .paint import SAMPLER, SCHEDULER, SEED, paint
from .picture_scores import picture_scores
from .questions import BATCH, PairList
from .systems import System
from .world import World

Rows = dict[str, dict[str, Any]]
"""What was measured, by the name of the system."""


def loss_rows(world: World, systems: list[System], pairs: PairList) -> Rows:
    """{"losses"}: one a pair, over its looks."""
    return {system.name: _loss_row(world, system, pairs) for system in systems}


def picture_rows(world: World, systems: list[System], pairs: PairList, steps: int) -> Rows:
    """The scores of `picture_scores`, of trained ensembles those of `Followed`, and "paint_seconds", what painting a
    picture took."""
    return {system.name: _picture_row(world, system, pairs, steps) for system in systems}


def by_variant(rows: Rows) -> Rows:
    """Losses of an aggregator that was trained from several seeds, averaged; "seeds" says how many."""
    grouped: dict[str, list[list[float]]] = {}
    for name, row in rows.items():
        grouped.setdefault(name.partition(", seed ")[0], []).append(row["losses"])
    return {
        name: {"losses": torch.tensor(losses).mean(0).tolist(), "seeds": len(losses)}
        for name, losses in grouped.items()
    }


def _loss_row(world: World, system: System, pairs: PairList) -> dict[str, Any]:
    def measure() -> dict[str, Any]:
        models = system.for_noise_loss(world)
        with system.within():
            losses = noise_losses(world, models, pairs.questions)
        return {"losses": losses.view(pairs.looks, -1).mean(0).tolist()}

    depends = [system.depends, world.digest, world.budget.cfg, pairs.looks, pairs.identity]
    return _measured(world, f"{world.kind} loss {system.name} {pairs.name}", depends, measure)


def _picture_row(world: World, system: System, pairs: PairList, steps: int) -> dict[str, Any]:
    def measure() -> dict[str, Any]:
        import time

        models = system.make(world)
        followed = Followed(models[0], pairs) if system.kind == "trained" else None
        started = time.perf_counter()
        with system.within():
            painted = paint(world, models, pairs, steps, followed)
        seconds = time.perf_counter() - started
        routed = followed.row() if followed else {}
        return {**picture_scores(painted, pairs), **routed, "paint_seconds": seconds / len(painted)}

    how = [steps, world.budget.cfg, SAMPLER, SCHEDULER, SEED, BATCH, judge.weights_digest()]
    depends = [system.depends, world.digest, how, pairs.identity]
    return _measured(world, f"{world.kind} pictures {system.name} {pairs.name} {steps} steps", depends, measure)


def _measured(world: World, name: str, depends: Any, measure) -> dict[str, Any]:
    try:
        return world.store.row(name, depends, measure)
    finally:
        world.running.release()
