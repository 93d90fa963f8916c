"""Quality against steps, and against network evaluations, of ours, the best expert and the best baseline."""

from __future__ import annotations

from .markdown import table
from .measure import Rows, picture_rows
from .picture_scores import SHOWN
from .picture_tables import FORMATS, HEAD, numbers
from .questions import PairList
from .statistics import difference, mean
from .systems import System
from .world import World


def contenders(systems: list[System], losses: Rows, ours: str) -> list[System]:
    """Ours, the baseline with the lowest noise loss, and the expert with the lowest."""

    def best(kind: str) -> System:
        rows = [s for s in systems if s.kind == kind and s.name not in (ours, "base")]
        return min(rows, key=lambda s: mean(losses[s.name]["losses"]))

    (own,) = [s for s in systems if s.name == ours]
    return [own, best("free"), best("base")]


def fewer_steps(world: World, racing: list[System], pairs: PairList) -> str:
    found = {
        (s.name, steps): picture_rows(world, [s], pairs, steps)[s.name]
        for s in racing
        for steps in world.budget.step_counts
    }
    lines = []
    for system in racing:
        for steps in world.budget.step_counts:
            row = found[system.name, steps]
            texts = [f"{value:{f}}" for value, f in zip(numbers(row), FORMATS, strict=True)]
            evaluations = 2 * steps * system.networks
            lines.append((evaluations, [system.name, str(steps), *texts, f"{row['paint_seconds']:.2f}"]))
    rows = [[str(evaluations), *rest] for evaluations, rest in sorted(lines, key=lambda line: line[0])]
    ours, baseline, _ = racing
    half, full = world.budget.step_counts[-2:]
    won = difference(found[ours.name, half][SHOWN[-1]], found[baseline.name, full][SHOWN[-1]], pairs)
    return (
        f"{table(['evaluations', 'row', 'steps', *HEAD, 'seconds a picture'], rows)}\n\nBoth right, {ours.name} with {half} steps minus "
        f"{baseline.name} with {full} steps: {won}. Surely more often: {'yes' if won.sign > 0 else '**no**'}."
    )
