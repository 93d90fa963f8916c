"""The lists of pairs that scenes are judged on: python tests/pocket scenes.pairs (once; everything later reads pairs.tsv)

Left and right subject are of different domains, every ordered pair of domains is there equally often, and every subject
is in eight pairs of its list. No pair of a list occurs in any training.

- known: unseen pairs of subjects that the base and the experts learn.
- experts_only: subjects that only their expert learns.
- held_out: subjects that nothing is trained on.
- watched_known, watched_experts_only, watched_unseen: the tenth of the aggregator's subjects on which choices are made.
  No expert knows the last.

The aggregator is trained on none of the subjects listed, the experts on all but those of held_out and watched_unseen.
"""

import random
from functools import cache
from itertools import permutations
from typing import NamedTuple

from .. import common, data, others, subjects

PATH = common.HERE / "scenes" / "pairs.tsv"
PER_DOMAIN = {"known": 20, "experts_only": 20, "held_out": 20}
WATCHED_PER_DOMAIN = 10
TURNS = 2
"""How often a subject is left of another of each other domain."""


class Pair(NamedTuple):
    left: data.Subject
    right: data.Subject


def load(name: str) -> list[Pair]:
    """The list's pairs, in the committed order."""
    rows = [line.split("\t") for line in PATH.read_text(encoding="ascii").splitlines()]
    by_code = _by_code()
    return [Pair(by_code[left], by_code[right]) for kind, left, right in rows if kind == name]


def subjects_of(*names: str) -> set[data.Subject]:
    return {subject for name in names for pair in load(name) for subject in pair}


def listed() -> set[frozenset[str]]:
    """Codes of all pairs of all lists, in either order: what no training may show."""
    rows = [line.split("\t") for line in PATH.read_text(encoding="ascii").splitlines()]
    return {frozenset(row[1:]) for row in rows}


def learners() -> list[data.Subject]:
    """What the aggregator is trained on: the experts' subjects and others that no expert knows, without those listed."""
    shown = {code for pair in listed() for code in pair}
    return [s for s in _all() if s.code not in shown]


@cache
def _by_code() -> dict[str, data.Subject]:
    return {s.code: s for s in [*data.subjects(), *others.unseen(), *_of_experts()]}


def _of_experts() -> list[data.Subject]:
    return [s for domain in common.DOMAINS for s in others.of_experts(domain)]


def _all() -> list[data.Subject]:
    return data.subjects("train+spare") + _of_experts() + others.unseen()


def main() -> None:
    random.seed(common.SEED)
    groups = {"known": _known(), "experts_only": _experts_only(), "held_out": data.subjects("held_out")}
    aside = {s for group in groups.values() for s in group}
    rest = {
        "watched_known": data.subjects("train"),
        "watched_experts_only": data.subjects("spare") + _of_experts(),
        "watched_unseen": others.unseen(),
    }
    for name, candidates in rest.items():
        groups[name] = _drawn([s for s in candidates if s not in aside], WATCHED_PER_DOMAIN)
    lines = []
    for name, group in groups.items():
        lines += [f"{name}\t{left.code}\t{right.code}" for left, right in _paired(group)]
        print(name, len(group), "subjects:", ", ".join(s.name for s in group))
    PATH.write_text("\n".join(lines) + "\n", encoding="ascii")


def _known() -> list[data.Subject]:
    """20 subjects a domain, evenly through the list."""
    return [s for domain in common.DOMAINS for s in data.subjects("train", domain)[::7][:20]]


def _experts_only() -> list[data.Subject]:
    """Of the experts' further subjects those that look like none of the base's, nor like one another.

    The base once saw the spare subjects for ten minutes, so they do not count.
    """
    taken = {others.essence(s.code) for s in data.subjects("train")}
    fair = []
    for s in _of_experts():
        series = subjects.SERIES.search(s.name) or s.name.startswith(("man", "men")) or s.name in subjects.LIKE_ANOTHER
        if not series and others.essence(s.code) not in taken:
            taken.add(others.essence(s.code))
            fair.append(s)
    return _drawn(fair, PER_DOMAIN["experts_only"])


def _drawn(candidates: list[data.Subject], count: int) -> list[data.Subject]:
    """`count` subjects a domain, evenly through the candidates."""
    out = []
    for domain in common.DOMAINS:
        own = [s for s in candidates if s.domain == domain]
        if len(own) < count:
            raise ValueError(f"{domain}: {len(own)} candidates for {count} subjects")
        out += [own[i * len(own) // count] for i in range(count)]
    return out


def _paired(group: list[data.Subject]) -> list[Pair]:
    out = []
    for left, right in permutations(common.DOMAINS, 2):
        lefts, rights = ([s for s in group if s.domain == domain] for domain in (left, right))
        random.shuffle(rights)
        for turn in range(TURNS):
            out += [Pair(s, rights[(i + turn) % len(rights)]) for i, s in enumerate(lefts)]
    return out


if __name__ == "__main__":
    main()
