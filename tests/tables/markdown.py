"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns(values: Sequence[Sequence[float]], formats: Sequence[str], lower: Sequence[bool]) -> list[list[str]]:
    """Numbers as text, row by row, the best of every column in bold."""
    best = [(min if low else max)(column) for column, low in zip(zip(*values, strict=True), lower, strict=True)]
    return [
        [f"**{v:{f}}**" if v == b else f"{v:{f}}" for v, f, b in zip(row, formats, best, strict=True)] for row in values
    ]
