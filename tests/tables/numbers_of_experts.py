"""Two, three and four experts under the noise average: loss, time and memory, with no training in between."""

from __future__ import annotations

from .markdown import table
from .measure import loss_rows
from .noise_loss import noise_losses
from .questions import PairList
from .statistics import mean
from .systems import AVERAGES, System, static
from .world import BASE, World

ROUNDS = 5
NUMBERS = (2, 3, 4)


def numbers_of_experts(world: World, lists: list[PairList]) -> str:
    everyone, method = (*world.experts, BASE), AVERAGES[0]
    rows = {n: static(f"{method} of {n}", method, everyone[:n]) for n in NUMBERS}
    losses = [loss_rows(world, list(rows.values()), pairs) for pairs in lists]
    costs = world.store.row(
        f"{world.kind} cost of experts", [world.digest, world.budget.name], lambda: _costs(world, rows, lists[0])
    )
    lines = []
    for number, system in rows.items():
        names = ", ".join(name.removeprefix("scenes_") for name in everyone[:number])
        means = [f"{mean(found[system.name]['losses']):.4f}" for found in losses]
        milliseconds, megabytes = costs[str(number)]
        lines.append([str(number), names, *means, f"{milliseconds:.1f}", f"{megabytes:.1f}"])
    head = [f"loss, {pairs.name}" for pairs in lists]
    return table(["experts", "which", *head, "ms a picture and evaluation", "weights, MB"], lines)


def _costs(world: World, rows: dict[int, System], pairs: PairList) -> dict[str, tuple[float, float]]:
    """By number of experts: the median over interleaved rounds, and what the host's memory manager has to hold."""
    from tests.bench.measure import interleaved

    models = {str(number): system.make(world)[0] for number, system in rows.items()}
    question = pairs.questions[:1]
    calls = {name: lambda m=model: noise_losses(world, [m], question) for name, model in models.items()}
    seconds = interleaved(calls, ROUNDS)
    count = len(question[0].latents)
    return {
        name: (1000 * sorted(seconds[name])[ROUNDS // 2] / count, _size(model) / 1e6) for name, model in models.items()
    }


def _size(model) -> int:
    return sum(patcher.model_size() for patcher in [model, *model.get_additional_models()])
