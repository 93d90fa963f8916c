"""The tables of the noise loss, as text."""

from __future__ import annotations

from .markdown import columns, table
from .measure import Rows
from .questions import PairList
from .statistics import difference, mean


def loss_table(found: dict[str, Rows], pairs: PairList, reference: str) -> str:
    """Every row's loss with each set of experts, and how much lower the reference's is, paired."""
    names = list(dict.fromkeys(name for rows in found.values() for name in rows))
    cells: dict[str, list[str]] = {name: [label(name, found)] for name in names}
    for rows in found.values():
        numbers = columns([[mean(row["losses"])] for row in rows.values()], [".4f"], [True])
        means = dict(zip(rows, (text for (text,) in numbers), strict=True))
        for name in names:
            against = name in rows and reference in rows and name != reference
            cells[name] += [
                means.get(name, "-"),
                str(difference(rows[reference]["losses"], rows[name]["losses"], pairs)) if against else "",
            ]
    head = [cell for kind in found for cell in (f"{kind} experts", f"{reference} minus it (95 %)")]
    return table(["row", *head], list(cells.values()))


def label(name: str, found: dict[str, Rows]) -> str:
    """With the number of seeds, of each set of experts that has several."""
    seeds = {kind: rows[name].get("seeds", 1) for kind, rows in found.items() if name in rows}
    several = ", ".join(f"{kind}: {count} seeds" for kind, count in seeds.items() if count > 1)
    return f"{name} ({several})" if several else name
