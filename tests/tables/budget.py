"""How much is measured: enough for the document, or just enough to see that everything runs."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Budget:
    """looks:       draws of noise and timestep for every pair
    pairs:       of every list whose noise loss is measured, evenly through it; painted: of the one that is painted; 0 is all
    noises:      pictures that are painted of every pair, each from its own noise; far_noises: by far experts
    steps, cfg:  sampling steps and guidance of every row; step_counts: those of the table of fewer steps
    merges:      candidates of a search for block weights, each painted for merge_pairs pairs
    probed:      pairs from which the probe takes its weights by noise level, each under as many noises as looks
    """

    looks: int = 4
    pairs: int = 0
    painted: int = 204
    noises: int = 1
    far_noises: int = 1
    steps: int = 20
    cfg: float = 5.0
    step_counts: tuple[int, ...] = (10, 20)
    merges: int = 30
    merge_pairs: int = 6
    merge_steps: int = 10
    probed: int = 60
    name: str = "full"


FULL = Budget()
LONG = replace(FULL, noises=4, far_noises=2, name="long")
"""For the document: pictures show both subjects too seldom to compare rows by one of each pair."""
QUICK = Budget(
    looks=1, pairs=8, painted=8, noises=2, steps=3, step_counts=(2, 3), merges=3, merge_pairs=2, merge_steps=2, probed=4, name="quick",
)  # fmt: skip
BUDGETS = {budget.name: budget for budget in (FULL, LONG, QUICK)}
