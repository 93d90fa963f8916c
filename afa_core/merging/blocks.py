"""The blocks of a network as merge-block-weighted (MBW) tools name them, and the classic rows of weights."""

from __future__ import annotations

import math
from collections.abc import Callable

BASE = "BASE"
"""The row of everything that no other row names."""

Blocks = dict[str, tuple[str, ...]]
"""The blocks of a network by the names of merging tools, each with the prefixes of the network's keys in it."""


def _smoothstep(t: float) -> float:
    return t * t * (3 - 2 * t)


def _wave(t: float, swings: int) -> float:
    """A smooth rise, fall, rise ... from 0."""
    swing, within = divmod(t * swings, 2)
    return _smoothstep(within if within <= 1 else 2 - within)


# Each takes u from 0 (first input block) over 12 (middle) to 24 (last output block), and d = |u - 12|.
PRESETS: dict[str, Callable[[float, float], float]] = {
    "GRAD_V": lambda u, d: d / 12,
    "GRAD_A": lambda u, d: 1 - d / 12,
    "FLAT_25": lambda u, d: 0.25,
    "FLAT_50": lambda u, d: 0.5,
    "FLAT_75": lambda u, d: 0.75,
    "WRAP08": lambda u, d: float(d > 8),
    "WRAP12": lambda u, d: float(d > 6),
    "WRAP14": lambda u, d: float(d > 5),
    "WRAP16": lambda u, d: float(d > 4),
    "MID12_50": lambda u, d: 0.5 * (5 <= u <= 18),  # 14 blocks, whatever its name says
    "OUT07": lambda u, d: float(u >= 18),
    "OUT12": lambda u, d: float(u > 12),
    "OUT12_5": lambda u, d: 0.5 if d == 0 else float(u > 12),
    "RING08_SOFT": lambda u, d: min(1.0, max(0.0, (3 - abs(d - 5)) / 2)),
    "RING08_5": lambda u, d: float(3 <= d <= 6),
    "RING10_5": lambda u, d: float(3 <= d <= 7),
    "RING10_3": lambda u, d: float(2 <= d <= 6),
    "SMOOTHSTEP": lambda u, d: _smoothstep(u / 24),
    "REVERSE_SMOOTHSTEP": lambda u, d: 1 - _smoothstep(u / 24),
    "SMOOTHSTEP_2": lambda u, d: _wave(u / 24, 2),
    "SMOOTHSTEP_3": lambda u, d: _wave(u / 24, 3),
    "SMOOTHSTEP_4": lambda u, d: _wave(u / 24, 4),
    "COSINE": lambda u, d: (1 + math.cos(math.pi * u / 24)) / 2,
    "REVERSE_COSINE": lambda u, d: (1 - math.cos(math.pi * u / 24)) / 2,
}
"""The classic rows as formulas: how much of the other models each block takes, 0 being model_1 alone.

For 25 blocks they are the rows of the merge-block-weighted extension (sdweb-merge-block-weighted-gui, csv/preset.tsv)
and of supermerger (mbwpresets.txt), to the digits printed there.
"""


def preset_row(name: str, blocks: int) -> list[float]:
    """One number a block, from the first input block to the last output block (25 for SD1.5, 19 for SDXL)."""
    positions = [24 * i / (blocks - 1) for i in range(blocks)]
    return [PRESETS[name](u, abs(u - 12)) for u in positions]
