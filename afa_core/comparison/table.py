"""The table of a comparison: what each method costs, and what the scorers say of its pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ..scoring.statistics import summarise


@dataclass(frozen=True)
class Row:
    """One method.

    networks: how many networks a sampling step evaluates
    seconds:  of each picture's sampling, without loading and decoding; those that were not measured are missing
    scores:   by scorer, one number a picture
    """

    name: str
    networks: int
    seconds: list[float]
    scores: dict[str, list[float]] = field(default_factory=dict)

    def cells(self) -> list[str]:
        """The median of the seconds, since the time of the first picture includes set-up that the others do not need."""
        seconds = f"{median(self.seconds):.2f}" if self.seconds else "-"
        return [self.name, str(self.networks), seconds, *map(_mean, self.scores.values())]


def table(rows: list[Row]) -> dict[str, Any]:
    """{"columns": [str], "rows": [[str]]}; all rows have the same scorers."""
    columns = ["method", "networks a step", "seconds a picture", *rows[0].scores]
    return {"columns": columns, "rows": [row.cells() for row in rows]}


def markdown(cells: dict[str, Any]) -> str:
    """A table as Markdown."""
    lines = [cells["columns"], ["---"] + ["---:"] * (len(cells["columns"]) - 1), *cells["rows"]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mean(scores: list[float]) -> str:
    """The mean and its standard error over the pictures."""
    found = summarise(scores)
    return f"{found.mean:.4g}" + ("" if math.isnan(found.standard_error) else f" +- {found.standard_error:.2g}")
