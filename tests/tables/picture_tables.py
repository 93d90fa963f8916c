"""The tables of what was painted, as text."""

from __future__ import annotations

from .markdown import columns, table
from .measure import Rows
from .picture_scores import DISTANCE, LIKENESS, SHOWN
from .questions import PairList
from .statistics import difference, mean, over_subjects
from .systems import System

HEAD = [*SHOWN, LIKENESS, DISTANCE]
FORMATS = [".3f", ".3f", ".3f", ".4f", ".1f"]
LOWER = [False, False, False, False, True]


def numbers(row: dict) -> list[float]:
    return [*(mean(row[metric]) for metric in (*SHOWN, LIKENESS)), row[DISTANCE]]


def picture_table(systems: list[System], rows: Rows, pairs: PairList, reference: str) -> str:
    """Every row, and the reference against it by pairs both of whose subjects are right."""
    cells = columns([numbers(rows[s.name]) for s in systems], FORMATS, LOWER)
    lines = []
    for system, text in zip(systems, cells, strict=True):
        against = ["", "", ""]
        if system.name != reference:
            ours, theirs = rows[reference], rows[system.name]
            won = [_wins(ours[metric], theirs[metric]) for metric in (SHOWN[-1], LIKENESS)]
            against = [str(difference(ours[SHOWN[-1]], theirs[SHOWN[-1]], pairs)), *won]
        lines.append([system.name, *text, *against, str(system.networks)])
    versus = [f"both right: {reference} minus it (95 %)", "wins : losses, both right", "wins : losses, likeness"]
    return table(["row", *HEAD, *versus, "networks"], lines)


def routing_table(rows: Rows, pairs: PairList) -> str:
    """The weight of the right expert in its half, of every trained ensemble."""
    lines = []
    for name, row in rows.items():
        if "right weight" in row:
            points = {point: mean(steps) for point, steps in row["by point and step"].items()}
            found = over_subjects(row["right weight"], pairs.codes)
            by_point = ", ".join(f"{point} {weight:.2f}" for point, weight in points.items())
            lines.append([name, f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})", by_point])
    return table(["row", "all steps and points (95 %)", "by point"], lines)


def _wins(ours: list[float], theirs: list[float]) -> str:
    each = list(zip(ours, theirs, strict=True))
    return f"{sum(a > b for a, b in each)} : {sum(a < b for a, b in each)}"
