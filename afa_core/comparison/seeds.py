"""Seeds in the text of a widget."""

from __future__ import annotations

import re

LARGEST = 2**64 - 1
MOST = 1000


def parse_seeds(text: str) -> list[int]:
    """Each seed once, in the given order, of a text such as "1, 5, 20-23". Raises ValueError for anything else."""
    seeds: dict[int, None] = {}
    for part in filter(None, re.split(r"[\s,;]+", text.strip())):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last <= LARGEST or last - first >= MOST:
            raise ValueError(
                f"seeds should be numbers, or rising ranges of at most {MOST} seeds, such as 1, 5, 20-23, found {part!r:.60}."
            )
        seeds |= dict.fromkeys(range(first, last + 1))
    if not seeds:
        raise ValueError("seeds is empty: give at least one, such as 1, or a range, such as 1-4.")
    return list(seeds)
