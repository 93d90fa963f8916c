"""Which items are kept from training, and which stand for a whole folder: drawn by hash, so that they stay."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

NONE_LISTED = ("held_out.txt", "names none of the captions or files")
"""How a list is reported that fits nothing; items are then held out by hash."""
FEWEST = 10
"""Below this many items nothing is held out: what is left would not say much either way."""


def held_out(keys: Sequence[str], domains: Sequence[str], fraction: float, most: int) -> set[str]:
    """The keys to hold out: `fraction` of them, at least one of ten, at most `most`, shared among the domains.

    Equal keys stay together. Of each domain those of the lowest hash are taken, so that a folder that
    grows keeps nearly all of them.
    """
    members = defaultdict(set)
    for key, domain in zip(keys, domains, strict=True):
        members[domain].add(key)
    total = len(set(keys))
    if total < FEWEST or fraction <= 0 or most < 1:
        return set()
    wanted = min(most, max(1, round(fraction * total)))
    ideal = {domain: wanted * len(group) / total for domain, group in members.items()}
    quota = {domain: int(share) for domain, share in ideal.items()}
    spare = sorted(ideal, key=lambda domain: (quota[domain] - ideal[domain], _rank(domain)))
    for domain in spare[: wanted - sum(quota.values())]:
        quota[domain] += 1
    return {key for domain, group in members.items() for key in sorted(group, key=_rank)[: quota[domain]]}


def kept_apart(
    keys: Sequence[str], domains: Sequence[str], listed: Sequence[bool], fraction: float, most: int
) -> set[str]:
    """The keys that a held_out.txt names, else those of `held_out`. listed: whether it names each."""
    return {key for key, named in zip(keys, listed, strict=True) if named} or held_out(keys, domains, fraction, most)


def subset(keys: Sequence[str], domains: Sequence[str], limit: int) -> list[int]:
    """Indices of at most `limit` items, as many of every domain as there are, in their old order."""
    groups = defaultdict(list)
    for index in sorted(range(len(keys)), key=lambda i: (_rank(keys[i]), i)):
        groups[domains[index]].append(index)
    rows = sorted((place, domain, index) for domain, group in groups.items() for place, index in enumerate(group))
    return sorted(index for _, _, index in rows[:limit])


def _rank(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
