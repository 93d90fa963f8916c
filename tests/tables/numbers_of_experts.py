"""Two, three and four experts: loss, time and memory, each aggregator trained alike."""

from __future__ import annotations

from . import trainings
from .markdown import table
from .measure import loss_rows
from .noise_loss import noise_losses
from .questions import PictureSet
from .statistics import by_domain
from .systems import System, ensemble
from .world import World

ROUNDS = 5


def numbers_of_experts(world: World, sets: list[PictureSet]) -> str:
    rows = {
        number: ensemble(f"{number} experts", t.file, t.digest, t.experts)
        for number, t in trainings.by_number(world).items()
    }
    losses = [loss_rows(world, list(rows.values()), pictures) for pictures in sets]
    costs = world.store.row("cost of experts", [r.depends for r in rows.values()], lambda: _costs(world, rows, sets[0]))
    lines = []
    for number, system in rows.items():
        means = [f"{by_domain(found[system.name]['losses'], s)[0]:.4f}" for found, s in zip(losses, sets, strict=True)]
        names = ", ".join(name.removeprefix("pocket_") for name in trainings.ALL[:number])
        milliseconds, megabytes = costs[str(number)]
        lines.append([str(number), names, *means, f"{milliseconds:.1f}", f"{megabytes:.1f}"])
    return table(
        ["experts", "which", *(f"loss, {s.short}" for s in sets), "ms a picture and evaluation", "weights, MB"], lines
    )


def _costs(world: World, rows: dict[int, System], pictures: PictureSet) -> dict[str, tuple[float, float]]:
    """By number of experts: the median over interleaved rounds, and what the host's memory manager has to hold."""
    from tests.bench.measure import interleaved

    models = {str(number): system.make(world)[0] for number, system in rows.items()}
    question = pictures.questions[:1]
    calls = {name: lambda m=model: noise_losses([m], question) for name, model in models.items()}
    seconds = interleaved(calls, ROUNDS)
    count = len(question[0].latents)
    return {
        name: (1000 * sorted(seconds[name])[ROUNDS // 2] / count, _size(model) / 1e6) for name, model in models.items()
    }


def _size(model) -> int:
    return sum(patcher.model_size() for patcher in [model, *model.get_additional_models()])
