"""What distilling is worth: python -m tests.pocket.distil [--kind far] [--steps N] [--rows N] [--twice N] [--search] [--quick]

Trains students of the scenes' experts through the node, measures the noise loss of every row on the watched lists
(PROTOCOL.md), paints the pairs of the prompt list with the merge, the ensemble and the student, and prints tables. Finished
rows are on disk, and a training that was cut off goes on.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.pocket import common  # noqa: E402
from tests.tables import search  # noqa: E402
from tests.tables.budget import FULL, QUICK  # noqa: E402
from tests.tables.measure import loss_rows, picture_rows  # noqa: E402
from tests.tables.oracle import ORACLE  # noqa: E402
from tests.tables.picture_tables import picture_table  # noqa: E402
from tests.tables.questions import pair_lists  # noqa: E402
from tests.tables.systems import EXTRAPOLATED, System, expert_name, systems  # noqa: E402
from tests.tables.trained import OURS  # noqa: E402
from tests.tables.world import KINDS, World, start  # noqa: E402

from . import lessons, report  # noqa: E402
from .students import AVERAGE, MAIN, OTHERS, School, Student, ours  # noqa: E402

FREE = (AVERAGE, EXTRAPOLATED, "MBW GRAD_V", "MBW SMOOTHSTEP", ORACLE, *map(expert_name, common.DOMAINS))


def ordered(world: World, searched: bool) -> list[System | Student]:
    """By importance: a run that is cut off has the first ones."""
    found = {row.name: row for row in systems(world, [])}
    free = [found[name] for name in (*FREE, *(search.METHODS if searched else ()))]
    return [found[report.MERGE], ours(world), MAIN, *free, *OTHERS]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--kind", choices=KINDS, default=KINDS[0], help="of the experts")
    ask.add_argument("--steps", type=int, default=500)
    ask.add_argument("--rows", type=int, help="only the first so many, which are the most important")
    ask.add_argument("--twice", type=int, default=0, help="the first so many rows have their students from two seeds")
    ask.add_argument("--search", action="store_true", help="autoMBW too, which wants tests/tables/requirements.txt")
    ask.add_argument("--quick", action="store_true", help="few pictures and prompts, to see that all of it runs")
    args = ask.parse_args()
    world = start(QUICK if args.quick else FULL).of_kind(args.kind)
    school = School(world, args.steps, args.quick)
    lists = {pairs.name: pairs for pairs in pair_lists(world, [*lessons.LISTS])}
    rows = ordered(world, args.search)[: args.rows]
    losses: dict[str, report.Losses] = {name: {} for name in lists}
    systems: dict[str, System] = {}

    def measure(row: System) -> None:
        systems.setdefault(row.name, row)
        for name, pairs in lists.items():
            found = loss_rows(world, [row], pairs)[row.name]["losses"]
            losses[name].setdefault(row.name, []).append(found)

    for row in rows:
        measure(school.row(row, 0) if isinstance(row, Student) else row)
    for row in rows[: args.twice]:
        if isinstance(row, Student):
            measure(school.row(row, 1))
    untrained = [row for row in rows if isinstance(row, System)]
    print(f"\n{report.limits(lists, losses, untrained)}\n\n{report.loss_table(lists, losses, school.minutes)}")
    shown = lists[lessons.COVERED]
    drawn = [systems[name] for name in (report.MERGE, OURS, MAIN.title)]
    painted = picture_rows(world, drawn, shown, world.budget.steps)
    print(f"\n## Pictures of {len(shown.pairs)} pairs of the prompt list\n")
    print(picture_table(drawn, painted, shown, MAIN.title))


if __name__ == "__main__":
    main()
