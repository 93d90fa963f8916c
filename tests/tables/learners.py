"""Pairs of what the aggregators learn from: on these, and on none of the lists, baselines choose their weights."""

from __future__ import annotations

import random
from itertools import cycle, islice, permutations
from pathlib import Path

from tests.pocket import common
from tests.pocket.scenes import datasets, pairs, pictures

from . import folders


def learnt(count: int) -> list[pairs.Pair]:
    """`count` pairs of mixed domains of the aggregator's subjects."""
    draw, subjects = random.Random(common.SEED + 2), pairs.learners()
    by_domain = {domain: [s for s in subjects if s.domain == domain] for domain in common.DOMAINS}
    order = islice(cycle(permutations(common.DOMAINS, 2)), count)
    return [pairs.Pair(draw.choice(by_domain[left]), draw.choice(by_domain[right])) for left, right in order]


def drawn(pair: pairs.Pair) -> tuple[pictures.Drawn, ...]:
    return tuple(map(pictures.plain, pair))


def caption(pair: pairs.Pair) -> str:
    return datasets.scenes_caption(drawn(pair))


def folder(count: int) -> Path:
    """The pairs as a prompt folder."""
    return folders.written(f"learners_{count}", learnt(count))
