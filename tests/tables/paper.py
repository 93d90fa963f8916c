"""What the paper says of its tables, beside ours.

In words: AFA before the base models and before every baseline, by every metric; every ablation behind the full method
(arXiv 2405.17082). Its digits are of other pictures, checkpoints and networks: nothing here compares with them.
"""

from __future__ import annotations

from dataclasses import dataclass

from .markdown import table
from .measure import Rows
from .questions import PairList
from .statistics import difference
from .systems import AVERAGES, System
from .trained import ABLATIONS, FULL


@dataclass(frozen=True)
class Claim:
    """`ours` is said to be better than each of `rows`."""

    text: str
    ours: str
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """Names of rows that a row is surely better than, not surely apart from, and surely worse than."""

    better: list[str]
    unsure: list[str]
    worse: list[str]

    @property
    def word(self) -> str:
        return "disagrees" if self.worse else "undecided" if self.unsure else "holds"

    @property
    def cells(self) -> list[str]:
        return [self.word, *("; ".join(names) or "-" for names in (self.better, self.unsure, self.worse))]


def claims(systems: list[System], ours: str) -> list[Claim]:
    """Those of which any row is there."""
    of_kind = {
        kind: [s.name for s in systems if s.kind == kind and s.name != ours] for kind in ("base", "free", "trained")
    }
    baselines = tuple(name for name in of_kind["free"] if name not in AVERAGES)
    averages = tuple(name for name in of_kind["free"] if name in AVERAGES)
    found = [
        Claim(f"{ours} is better than every base model", ours, tuple(of_kind["base"])),
        Claim(f"{ours} is better than every baseline", ours, baselines),
        Claim(f"averaging noise or blocks is worse than {ours}", ours, averages),
        Claim("AFA without one of its parts is worse", FULL, tuple(n for n in of_kind["trained"] if n in ABLATIONS)),
    ]
    there = {system.name for system in systems}
    return [claim for claim in found if claim.ours in there and claim.rows]


def judged(rows: Rows, ours: str, others: tuple[str, ...], metric: str, pairs: PairList) -> Verdict:
    """By the intervals of paired differences; of losses less is better, of everything else more."""
    lower, names = metric == "losses", {-1: [], 0: [], 1: []}
    for name in others:
        sign = difference(rows[ours][metric], rows[name][metric], pairs).sign
        names[-sign if lower else sign].append(name)
    return Verdict(names[1], names[0], names[-1])


def beside_ours(rows: Rows, found: list[Claim], metric: str, pairs: PairList) -> str:
    """Each claim by one metric, of the rows that were measured."""
    lines = [
        [claim.text, *judged(rows, claim.ours, tuple(n for n in claim.rows if n in rows), metric, pairs).cells]
        for claim in found
        if claim.ours in rows
    ]
    return table(["the paper says", "ours", "surely better than", "no sure difference", "surely worse than"], lines)
