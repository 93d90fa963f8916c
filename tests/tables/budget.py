"""How much is measured: enough for the document, or just enough to see that everything runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """looks:        draws of noise and timestep for every picture
    hands:           in which a name is painted; losses are measured in all three
    painted_sets:    1 paints held-out names alone, 2 those that the experts know as well
    subjects:        of each domain; 0 takes all
    steps, cfg:      sampling steps and guidance of every row; step_counts: those of the table of fewer steps
    training_steps:  of every ablation, and of every number of experts
    merges:          candidates of a search for block weights, each judged on merge_subjects names a domain
    """

    looks: int = 4
    hands: tuple[str, ...] = ("twemoji",)
    painted_sets: int = 2
    subjects: int = 0
    steps: int = 20
    cfg: float = 3.0
    step_counts: tuple[int, ...] = (5, 10, 20, 50)
    training_steps: int = 400
    merges: int = 30
    merge_subjects: int = 2
    merge_steps: int = 10
    name: str = "full"

    def of_each_domain(self, domains: list[str], subjects: list[str]) -> list[int]:
        """The places of all pictures of the first `subjects` subjects of every domain, or of all."""
        chosen: dict[str, list[str]] = {}
        for domain, subject in dict.fromkeys(zip(domains, subjects, strict=True)):
            chosen.setdefault(domain, []).append(subject)
        few = {(d, s) for d, names in chosen.items() for s in names[: self.subjects or None]}
        return [i for i, pair in enumerate(zip(domains, subjects, strict=True)) if pair in few]


FULL = Budget()
SHORT = Budget(painted_sets=1, name="short")
QUICK = Budget(
    looks=1, subjects=3, steps=2, step_counts=(2, 3), training_steps=2, merges=3, merge_subjects=1, merge_steps=2, name="quick",
)  # fmt: skip
BUDGETS = {budget.name: budget for budget in (FULL, SHORT, QUICK)}
"""full: about 40 minutes of one idle core. short: without painting names that the experts know. quick: next to nothing,
to see that all of it runs."""
