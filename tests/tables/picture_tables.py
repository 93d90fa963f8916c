"""The tables of what was painted, as text, in the paper's columns."""

from __future__ import annotations

from .markdown import columns, table
from .measure import Rows
from .questions import PictureSet
from .statistics import difference, mean
from .systems import AFA, System

SETS = ("FID*", "IS*")
EACH = ("CLIP-I*", "CLIP-T*")
LOWER = {"FID*"}


def numbers(row: dict) -> list[float]:
    return [*(row[metric] for metric in SETS), *(mean(row[metric]) for metric in EACH)]


def picture_table(systems: list[System], rows: Rows, pictures: PictureSet) -> str:
    """Every system in the paper's columns, and AFA against it by CLIP-I*, paired over names."""
    subjects = [picture.subject for picture in pictures.painted]
    cells = columns(
        [numbers(rows[s.name]) for s in systems], [".1f", ".2f", ".4f", ".4f"], [m in LOWER for m in (*SETS, *EACH)]
    )
    lines = []
    for system, text in zip(systems, cells, strict=True):
        ours, theirs = rows[AFA]["CLIP-I*"], rows[system.name]["CLIP-I*"]
        wins, losses = (
            sum(a > b for a, b in zip(ours, theirs, strict=True)),
            sum(a < b for a, b in zip(ours, theirs, strict=True)),
        )
        against = ["", ""] if system.name == AFA else [str(difference(ours, theirs, subjects)), f"{wins} : {losses}"]
        lines.append([system.name, *text, *against, str(system.networks)])
    return table(["system", *SETS, *EACH, "CLIP-I*: AFA minus it (95 %)", "wins : losses", "networks"], lines)
