"""The tables, and what must hold."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.pocket.scenes.statistics import over_subjects, share_over_subjects
from tests.tables.markdown import table
from tests.tables.questions import PairList
from tests.tables.systems import System
from tests.tables.trained import OURS

from .lessons import COVERED, LISTS, OUTSIDE
from .students import MAIN

MERGE = "weighted merge"
WANTED = 0.5
"""Of the gap from merge to ensemble, on pairs of the prompt list."""
Losses = dict[str, list[list[float]]]
"""One a pair, by the title of the row and seed."""


def section(pairs: PairList, losses: Losses, systems: dict[str, System], minutes: dict[str, float]) -> str:
    """Of every row its loss, how much lower it is than the merge's, and the share of the gap from merge to ensemble.

    minutes: of the trainings, by the title of the row
    """
    merge, ensemble = (_mean(losses[name]) for name in (MERGE, OURS))
    lines = []
    for title, seeds in losses.items():
        won = merge - _mean(seeds)
        numbers = ", ".join(f"{sum(seed) / len(seed):.4f}" for seed in seeds)
        against = [str(over_subjects(-won, pairs.codes)), _share(won, merge - ensemble, pairs)]
        took = f"{minutes[title]:.1f}" if title in minutes else ""
        lines.append([title, str(systems[title].networks), took, numbers, *(against if title != MERGE else ["", ""])])
    found = ["loss (a number a seed)", "minus the merge (95 %)", "share of the gap (95 %)"]
    subjects = {code for pair in pairs.codes for code in pair}
    title = f"\n## {LISTS[pairs.name]}: {pairs.name}, {len(pairs.codes)} pairs of {len(subjects)} subjects\n"
    return f"{title}\n{table(['row', 'networks a step', 'minutes', *found], lines)}"


def limits(lists: dict[str, PairList], losses: dict[str, Losses], statics: list[System]) -> str:
    """What distilling is asked for, of the first student."""
    covered, found = lists[COVERED], losses[COVERED]
    ours, merge, ensemble = (_mean(found[name]) for name in (MAIN.title, MERGE, OURS))
    share = share_over_subjects(merge - ours, merge - ensemble, covered.codes)
    rivals = [system.name for system in statics if system.networks == 1]
    against = {name: over_subjects(ours - _mean(found[name]), covered.codes) for name in rivals}
    unsure = [f"{name} ({change})" for name, change in against.items() if change.sign >= 0]
    outside = over_subjects(_mean(losses[OUTSIDE][MAIN.title]) - _mean(losses[OUTSIDE][MERGE]), lists[OUTSIDE].codes)
    lines = [
        [f"prompt list: at least {WANTED:.0%} of the gap from merge to ensemble", _share(merge - ours, merge - ensemble, covered),
         share is not None and share.mean >= WANTED],
        [f"prompt list: surely less loss than each of {len(rivals)} single networks without training",
         f"not than: {', '.join(unsure) or 'none'}", not unsure],
        ["outside it: loss not surely above the start's", f"minus the merge {outside}", outside.sign <= 0],
    ]  # fmt: skip
    head = ["what must hold", f"found of {MAIN.title}", "holds"]
    return table(head, [[a, b, "yes" if c else "**no**"] for a, b, c in lines])


def _mean(seeds: list[list[float]]) -> Tensor:
    """[M], over seeds."""
    return torch.tensor(seeds).mean(0)


def _share(won: Tensor, gap: Tensor, pairs: PairList) -> str:
    share = share_over_subjects(won, gap, pairs.codes)
    return share.percent if share else "no sure gap"
