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


def loss_table(lists: dict[str, PairList], losses: dict[str, Losses], minutes: dict[str, float]) -> str:
    """Of every row and list its loss, and the share of the gap from merge to ensemble; where there is none, its loss minus the merge's.

    minutes: of the trainings, by the title of the row
    """
    head = ["row", "minutes"]
    gaps: dict[str, Tensor | None] = {}
    for name, pairs in lists.items():
        gap = _mean(losses[name][MERGE]) - _mean(losses[name][OURS])
        gaps[name] = gap if over_subjects(gap, pairs.codes).sign > 0 else None
        head += [f"{LISTS[name]}: loss", "minus the merge (95 %)" if gaps[name] is None else "share of the gap (95 %)"]
    lines = []
    for title in next(iter(losses.values())):
        cells = [title, f"{minutes[title]:.1f}" if title in minutes else ""]
        for name, pairs in lists.items():
            seeds, gap = losses[name][title], gaps[name]
            won = _mean(losses[name][MERGE]) - _mean(seeds)
            against = over_subjects(-won, pairs.codes) if gap is None else _share(won, gap, pairs)
            numbers = ", ".join(f"{sum(seed) / len(seed):.4f}" for seed in seeds)
            cells += [numbers, str(against) if title != MERGE else ""]
        lines.append(cells)
    return table(head, lines)


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
