"""The limits that were set before anything was measured, and whether they hold."""

from __future__ import annotations

from tests.pocket import common

from .measure import Rows
from .oracle import ORACLE
from .paper import judged
from .picture_scores import SHOWN
from .questions import PairList
from .statistics import difference, mean, over_subjects
from .systems import System, expert_name
from .trained import ABLATIONS

GAP, RIGHT = 0.7, 0.65
LIMIT = ("limit", "found", "holds")
YES = "yes"
RIVALS = ("weighted merge", "noise average", "autoMBW (binary mid)", *map(expert_name, common.DOMAINS))
"""By pictures: both subjects right surely more often than each."""


def limits(
    systems: list[System], losses: dict[str, Rows], pairs: PairList, painted: Rows, shown: PairList, ours: str
) -> list[list[str]]:
    """Rows of LIMIT. losses: by kind of experts, near first, of the pairs; painted: of the pairs `shown`."""
    lines = []
    untrained = [s.name for s in systems if s.kind in ("base", "free")]
    lesser = [*untrained, *(s.name for s in systems if s.name in ABLATIONS)]
    for kind, rows in losses.items():
        if ours not in rows:
            continue
        verdict = judged(rows, ours, tuple(n for n in lesser if n in rows and n != ours), "losses", pairs)
        far = kind == "far"
        text = f"{kind} experts: loss {'surely above no' if far else 'surely below every'} base, baseline, average and ablation"
        holds = not verdict.worse if far else verdict.word == "holds"
        lines.append([text, f"worse than: {_list(verdict.worse)}; no sure difference: {_list(verdict.unsure)}", holds])
        lines.append(_gap(kind, rows, untrained, pairs, ours))
    verdict = judged(painted, ours, tuple(n for n in RIVALS if n in painted and n != ours), SHOWN[-1], shown)
    text = f"both subjects right surely more often than {_list(RIVALS)}"
    lines.append([text, f"not than: {_list([*verdict.unsure, *verdict.worse])}", verdict.word == "holds"])
    if "right weight" in painted[ours]:
        found = over_subjects(painted[ours]["right weight"], shown.codes)
        text = f"mean weight of the right expert in its half at least {RIGHT:.0%}"
        lines.append([text, f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})", found.mean >= RIGHT])
    return [[limit, found, YES if holds else "**no**"] for limit, found, holds in lines]


def gap_share(rows: Rows, untrained: list[str], ours: str) -> tuple[str, float]:
    """(the best row without training, which share of its distance to the oracle by place `ours` closes)"""
    best = min((name for name in untrained if name in rows), key=lambda name: mean(rows[name]["losses"]))
    start, end = (mean(rows[name]["losses"]) for name in (best, ORACLE))
    return best, (start - mean(rows[ours]["losses"])) / (start - end)


def _gap(kind: str, rows: Rows, untrained: list[str], pairs: PairList, ours: str) -> list:
    best, share = gap_share(rows, untrained, ours)
    each = zip(rows[best]["losses"], rows[ORACLE]["losses"], strict=True)
    wanted = [(1 - GAP) * free + GAP * oracle for free, oracle in each]
    beyond = difference(rows[ours]["losses"], wanted, pairs)
    text = f"{kind} experts: at least {GAP:.0%} of the gap from the best row without training to the {ORACLE}"
    return [text, f"{share:.0%} of the gap from {best}; loss minus the loss at {GAP:.0%}: {beyond}", share >= GAP]


def _list(names) -> str:
    return ", ".join(names) or "none"
