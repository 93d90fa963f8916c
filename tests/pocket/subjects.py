"""Chooses the subjects (which emoji, which domain) and writes subjects.tsv and held_out.txt.

Runs once, and `thin` after it; the two text files are committed and every later stage reads only them.
"""
import hashlib
import json
import re

from . import common, packages

PER_DOMAIN = 210
HELD_OUT = 20
FIRST = re.compile(r"^(man|woman|men|women|mother|mx|female|male|merman|family|two|deaf woman|deaf man)\b")
SERIES = re.compile(r"facing right|clock face|^family|^couple|^kiss|^keycap|^person: |^(wo)?man: |moon symbol"
                    r"|white (up|down|left|right)|oncoming|skin tone|^adult$|waving flag")
LIKE_ANOTHER = {  # nearly the same picture as a subject that stays
    "pouting face", "upside-down face", "softball", "light rail", "tram car", "trolleybus", "open file folder",
    "first quarter moon with face", "last quarter moon with face", "right-pointing magnifying glass",
    "camera with flash", "snowman without snow", "busts in silhouette", "person with blond hair", "information desk person",
    "earth globe americas", "earth globe asia-australia", "tear-off calendar", "second place medal", "third place medal",
    "chart with downwards trend", "leftwards hand", "leftwards pushing hand", "left-facing fist", "tornado", "foggy",
    "heavy black heart", "ferry", "bust in silhouette", "child", "older adult", "mens symbol", "womens symbol"}
SUBS = {
    "people": {"face-", "person", "hand", "body-parts"},
    "animals": {"animal-", "plant-", "food-", "drink", "cat-face", "monkey-face", "dishware"},
    "things": {"game", "event", "clothing", "award-medal", "music", "light & video", "sport", "arts & crafts", "transport-",
               "tool", "book-paper", "computer", "office", "writing", "phone", "science", "sound", "mail", "lock", "medical",
               "money", "place-", "sky & weather", "household", "hotel", "other-object", "heart", "time"},
}


def clean(name):
    """The caption's name: emoji.json's own, in lower case, without words that describe the character set."""
    name = name.lower().replace("\u2019", "").replace("\u00f1", "n")
    name = re.sub(r"\b(sign|symbol|black|heavy)\b(?! cat| bird| heart)", "", name).replace("-", " ")
    return re.sub(r"\s+", " ", name).strip(" ,")


def kind_of(sub):
    """The caption's kind: emoji.json's subcategory in words, which says of a mango that it is a fruit."""
    return re.sub(r"[-& ]+", " ", sub)


def domain_of(sub):
    for domain, starts in SUBS.items():
        if any(sub == s or (s[-1] == "-" and sub.startswith(s)) or (s in ("person", "hand", "music") and sub.startswith(s))
               for s in starts):
            return domain
    return None


def rank(code):
    return hashlib.sha256(code.encode()).hexdigest()


def main():
    table = json.loads(packages.read("noto", "emoji.json"))
    rows, names = {d: [] for d in common.DOMAINS}, set()
    for e in sorted(table, key=lambda e: e["sort_order"]):
        raw = (e["name"] or "").lower()
        domain = domain_of(e["subcategory"])
        if e["category"] in ("Flags", "Component", "Symbols") or e["subcategory"] in ("family", "person-symbol"):
            continue
        name = clean(raw)
        if (not domain or not raw or FIRST.match(raw) and raw not in ("man", "woman") or SERIES.search(raw)
                or raw in LIKE_ANOTHER or not name or name in names or not packages.has_all(e["unified"])):
            continue
        names.add(name)
        rows[domain].append((e["unified"].lower(), name, kind_of(e["subcategory"])))
    out, held = [], []
    for domain, items in rows.items():
        print(domain, len(items), "candidates")
        kept = sorted(items, key=lambda r: rank(r[0]))[:PER_DOMAIN]
        words = {}
        for _, name, _ in kept:
            for w in set(name.split()):
                words[w] = words.get(w, 0) + 1
        # A held-out name should be new as a whole but made of words that are trained, so that the text says something.
        known = [r for r in kept if all(words[w] > 1 for w in r[1].split())]
        share = {r: sum(words[w] > 1 for w in r[1].split()) / len(r[1].split()) for r in kept}
        order = sorted(kept, key=lambda r: (-(share[r] >= 0.5), rank("held" + r[0])))
        out_of = (known if len(known) >= 3 * HELD_OUT else order)
        chosen = set(sorted(out_of, key=lambda r: (out_of is order and order.index(r), rank("held" + r[0])))[:HELD_OUT])
        for code, name, kind in sorted(kept):
            split = "held_out" if (code, name, kind) in chosen else "train"
            out.append(f"{code}\t{name}\t{domain}\t{split}\t{kind}")
            if split == "held_out":
                held.append(f"{domain}\t{code}\t{name}")
        print(domain, "kept", len(kept), "held out:", ", ".join(n for _, n, _ in sorted(chosen)))
    (common.HERE / "subjects.tsv").write_text("\n".join(out) + "\n", encoding="ascii")
    (common.HERE / "held_out.txt").write_text("\n".join(held) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
