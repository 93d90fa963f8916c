"""Pairs as prompt folders, such as the probe and the trainer read."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.pocket.scenes import datasets, pairs, pictures

from .world import FOLDER


def listed(name: str) -> Path:
    """The pairs of a list, in a sub-folder for each order of two domains."""
    return written(name, pairs.load(name), sub_folders=True)


def written(name: str, rows: list[pairs.Pair], sub_folders: bool = False) -> Path:
    """Whole or not at all, unless it is there."""
    from PIL import Image

    place = FOLDER / name
    if not place.exists():
        draft = place.with_suffix(".part")
        shutil.rmtree(draft, ignore_errors=True)
        for number, pair in enumerate(rows):
            drawn = tuple(map(pictures.plain, pair))
            folder = draft / "_".join(subject.domain for subject in pair) if sub_folders else draft
            folder.mkdir(parents=True, exist_ok=True)
            picture = folder / f"{number:03}.png"
            Image.fromarray(pictures.scene(drawn).permute(1, 2, 0).numpy()).save(picture)
            picture.with_suffix(".txt").write_text(datasets.scenes_caption(drawn))
        draft.rename(place)
    return place
