"""Quality against steps, and against network evaluations, of AFA, the best expert and the best baseline."""

from __future__ import annotations

from .markdown import table
from .measure import Rows, picture_rows
from .picture_tables import EACH, SETS, numbers
from .questions import PictureSet
from .statistics import by_domain
from .systems import AFA, System
from .world import EXPERTS, World


def contenders(systems: list[System], losses: Rows, pictures: PictureSet) -> list[System]:
    """AFA, the expert with the lowest noise loss, and of the other rows without training the one with the lowest."""
    free = [s for s in systems if s.name != AFA and not s.trained and s.name not in EXPERTS]

    def best(rows: list[System]) -> System:
        return min(rows, key=lambda s: by_domain(losses[s.name]["losses"], pictures)[0])

    of_name = {s.name: s for s in systems}
    return [of_name[AFA], best([of_name[name] for name in EXPERTS]), best(free)]


def fewer_steps(world: World, systems: list[System], pictures: PictureSet) -> str:
    """Each at the same numbers of steps; and, where it is cheaper than AFA, at as many evaluations as AFA has."""
    counts = world.budget.step_counts
    lines = []
    for system in systems:
        equal = {steps * systems[0].networks // system.networks for steps in counts[:-1]}
        for steps in sorted({*counts, *equal}):
            row = picture_rows(world, [system], pictures, steps)[system.name]
            texts = [f"{v:.{digits}f}" for v, digits in zip(numbers(row), (1, 2, 4, 4), strict=True)]
            lines.append(
                (2 * steps * system.networks, [system.name, str(steps), *texts, f"{row['paint_seconds']:.2f}"])
            )
    head = ["evaluations", "system", "steps", *SETS, *EACH, "seconds a picture"]
    return table(head, [[str(evaluations), *rest] for evaluations, rest in sorted(lines, key=lambda line: line[0])])
