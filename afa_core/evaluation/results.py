"""What was measured, kept on disk row by row, and the tables drawn from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..atomic_file import replacing
from .statistics import Comparison, compare, summarise

LOWER_IS_BETTER = frozenset({"FID", "noise loss"})


class Results:
    """Scores by system, metric and prompt, in one JSON file that is whole at every moment.

    Each finished measurement is on disk before the next begins, so that a run that was stopped goes on.
    """

    def __init__(self, path: Path):
        self.path = path
        self.scores: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text()) if path.exists() else {}

    def has(self, system: str, metric: str) -> bool:
        return metric in self.scores.get(system, {})

    def add(self, system: str, metric: str, scores: Mapping[str, float]) -> None:
        """Takes one score a prompt, or one under any single name for a metric of a whole set (FID)."""
        self.scores.setdefault(system, {})[metric] = dict(scores)
        with replacing(self.path) as draft:
            draft.write_text(json.dumps(self.scores, indent=1))

    def compare(self, system: str, other: str, metric: str) -> Comparison:
        return compare(self.scores[system][metric], self.scores[other][metric])

    def best(self, metric: str) -> str:
        """The system with the best mean. Raises ValueError where nobody was measured."""
        means = {s: summarise(list(m[metric].values())).mean for s, m in self.scores.items() if metric in m}
        return (min if metric in LOWER_IS_BETTER else max)(means, key=means.__getitem__)

    def table(self, metrics: Sequence[str], digits: int = 4) -> str:
        """Markdown in the paper's layout: a row a system, a column a metric, the best of each in bold."""
        lines = [_row(["system", *metrics]), _row(["---"] * (len(metrics) + 1))]
        best = {metric: self.best(metric) for metric in metrics if any(metric in m for m in self.scores.values())}
        for system, measured in self.scores.items():
            cells = [system]
            for metric in metrics:
                if metric not in measured:
                    cells.append("")
                    continue
                summary = summarise(list(measured[metric].values()))
                text = f"{summary.mean:.{digits}g}"
                if summary.n > 1:
                    text += f" +- {summary.standard_error:.2g}"
                cells.append(f"**{text}**" if best[metric] == system else text)
            lines.append(_row(cells))
        return "\n".join(lines)

    def comparison_table(self, system: str, metric: str) -> str:
        """Markdown: one system against each other one, paired over prompts."""
        lines = [_row(["against", "difference (95 %)", "wins", "losses", "ties", "sign test"]), _row(["---"] * 6)]
        for other, measured in self.scores.items():
            if other != system and metric in measured:
                found = self.compare(system, other, metric)
                counts = [str(n) for n in (found.wins, found.losses, found.ties)]
                lines.append(_row([other, str(found.difference), *counts, f"p = {found.p_value:.2g}"]))
        return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
