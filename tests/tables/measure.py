"""Measures one row after the other; what is on disk already is not measured again."""

from __future__ import annotations

from typing import Any

from .noise_loss import noise_losses
from .paint import SAMPLER, SCHEDULER, SEED, paint
from .picture_scores import picture_scores
from .questions import PictureSet
from .systems import System
from .world import World

Rows = dict[str, dict[str, Any]]
"""What was measured, by the name of the system."""


def loss_rows(world: World, systems: list[System], pictures: PictureSet) -> Rows:
    """{"losses"}: one a picture and look, in the order of the set's questions."""
    return {system.name: _loss_row(world, system, pictures) for system in systems}


def picture_rows(world: World, systems: list[System], pictures: PictureSet, steps: int) -> Rows:
    """The scores of `picture_scores`, and "paint_seconds", what painting a picture took."""
    return {system.name: _picture_row(world, system, pictures, steps) for system in systems}


def _loss_row(world: World, system: System, pictures: PictureSet) -> dict[str, Any]:
    def measure() -> dict[str, Any]:
        models = system.for_noise_loss(world)
        return {"losses": noise_losses(models, pictures.questions)}

    depends = [system.depends, world.budget.cfg, world.budget.looks, pictures.identity]
    return _measured(world, f"loss {system.name} {pictures.short}", depends, measure)


def _picture_row(world: World, system: System, pictures: PictureSet, steps: int) -> dict[str, Any]:
    def measure() -> dict[str, Any]:
        import time

        models = system.make(world)
        started = time.perf_counter()
        painted = paint(world, models, pictures, steps)
        seconds = time.perf_counter() - started
        scores = picture_scores(painted, pictures.painted, pictures.real_features)
        return {**scores, "paint_seconds": seconds / len(painted)}

    how = [steps, world.budget.cfg, SAMPLER, SCHEDULER, SEED]
    depends = [system.depends, how, pictures.identity, pictures.hands]
    return _measured(world, f"pictures {system.name} {pictures.short} {steps} steps", depends, measure)


def _measured(world: World, name: str, depends: Any, measure) -> dict[str, Any]:
    try:
        return world.store.row(name, depends, measure)
    finally:
        world.running.release()
