"""The tables of the noise loss, as text."""

from __future__ import annotations

from .markdown import columns, table
from .measure import Rows
from .questions import PictureSet
from .statistics import by_domain, difference

HEAD = ["system", "all", "people", "animals", "things"]


def loss_table(rows: Rows, pictures: PictureSet, reference: str) -> str:
    """Every system's loss by domain, and how much lower the reference's is, paired."""
    subjects = [picture.subject for picture in pictures.pictures]
    cells = columns([by_domain(row["losses"], pictures) for row in rows.values()], [".4f"] * 4, [True] * 4)
    lines = []
    for (name, row), numbers in zip(rows.items(), cells, strict=True):
        against = "" if name == reference else str(difference(rows[reference]["losses"], row["losses"], subjects))
        lines.append([name, *numbers, against])
    return table([*HEAD, f"{reference} minus it (95 %)"], lines)
