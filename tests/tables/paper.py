"""What the paper says of its tables, beside ours.

In words: AFA before the base models and before every baseline, by every metric; every ablation behind the full method
(arXiv 2405.17082). Its digits are of other pictures, checkpoints and networks: nothing here compares with them.
"""

from __future__ import annotations

from dataclasses import dataclass

from .markdown import table
from .measure import Rows
from .statistics import difference
from .systems import AFA
from .trainings import ABLATIONS, ECONOMICAL, FULL
from .world import BASE, EXPERTS

AVERAGES = ("noise average", "block average")


@dataclass(frozen=True)
class Claim:
    """`ours` is said to be better than each of `rows`."""

    text: str
    ours: str
    rows: tuple[str, ...]


def claims(names: list[str]) -> list[Claim]:
    base = (BASE, *EXPERTS)
    ablations = tuple(name for name in ABLATIONS if name not in (FULL, ECONOMICAL))
    baselines = tuple(name for name in names if name not in (*base, *AVERAGES, *ABLATIONS, AFA))
    return [
        Claim("AFA is better than every base model", AFA, base),
        Claim("AFA is better than every baseline", AFA, baselines),
        Claim("averaging noise or blocks is worse than AFA", AFA, AVERAGES),
        Claim("AFA without one of its parts is worse, trained alike", FULL, ablations),
    ]


def beside_ours(rows: Rows, metric: str, lower: bool, subjects: list[str]) -> str:
    """Each claim by one metric: where it holds, and by interval where it does not."""
    lines = []
    for claim in claims(list(rows)):
        found = {name: difference(rows[claim.ours][metric], rows[name][metric], subjects) for name in claim.rows}
        signs = {name: -d.sign if lower else d.sign for name, d in found.items()}
        kinds = [[name for name, sign in signs.items() if sign == kind] for kind in (1, 0, -1)]
        verdict = "holds" if not kinds[1] + kinds[2] else "disagrees" if kinds[2] else "undecided"
        lines.append([claim.text, verdict, *("; ".join(kind) or "-" for kind in kinds)])
    return table(
        ["the paper says", "ours", "surely better than", "no sure difference from", "surely worse than"], lines
    )
