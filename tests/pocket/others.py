"""Emoji beyond those of subjects.tsv: every second one widens what the experts learn, the rest no expert has seen.

Experts know their own training pictures by heart. An aggregator that learnt from those alone would learn which to
trust about pictures it will never be asked for; the paper's is trained on other pictures than its experts, too.
Held-out subjects are left out, and so are their gender variants, which look almost the same.
"""

import json
from functools import cache

from . import common, data, packages, subjects

MOST = 200
"""Subjects a domain; the animals have fewer."""

GENDERED = {"1f468", "1f469", "1f9d1", "200d", "2640", "2642", "fe0f"}


def of_experts(domain: str) -> list[data.Subject]:
    return [s for s in _others() if s.domain == domain][::2]


def unseen() -> list[data.Subject]:
    return [s for domain in common.DOMAINS for s in [s for s in _others() if s.domain == domain][1::2]]


@cache
def _others() -> list[data.Subject]:
    """Subjects in all three hands that are in subjects.tsv under no split, evenly drawn by hash."""
    known = data.subjects()
    names, codes = {s.name for s in known}, {s.code for s in known}
    held_out = {essence(s.code) for s in known if s.split == "held_out"}
    found: dict[str, list[data.Subject]] = {domain: [] for domain in common.DOMAINS}
    for emoji in json.loads(packages.read("noto", "emoji.json")):
        code, domain = emoji["unified"].lower(), subjects.domain_of(emoji["subcategory"])
        name = subjects.clean(emoji["name"] or "")
        if not domain or emoji["category"] in ("Flags", "Component") or not name.isascii() or not name:
            continue
        if code in codes or name in names or essence(code) in held_out or not packages.has_all(code):
            continue
        names.add(name)
        found[domain].append(data.Subject(code, name, domain, "others", subjects.kind_of(emoji["subcategory"])))
    return [s for rows in found.values() for s in sorted(rows, key=lambda s: subjects.rank(s.code))[:MOST]]


def essence(code: str) -> frozenset[str]:
    return frozenset(code.split("-")) - GENDERED
