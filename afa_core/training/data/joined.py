"""Pictures of the user's and paintings in one dataset, in given shares."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from torch import Tensor

from .dataset import LatentDataset, Store

FINEST = 20
"""Repeats of an item that comes less often, at most, with which a share of the samples is met."""


class JoinedStore:
    """Several datasets' tensors as one's. places: the store of each item, and its number there."""

    def __init__(self, places: Sequence[tuple[Store, int]]):
        self.places = places

    def latent(self, item: int, variant: int) -> Tensor:
        store, number = self.places[item]
        return store.latent(number, variant)

    def text(self, expert: int, item: int, empty: bool) -> dict[str, Tensor]:
        store, number = self.places[item]
        return store.text(expert, number, empty)


def joined(pictures: LatentDataset, paintings: LatentDataset, share: float) -> LatentDataset:
    """Both as one dataset, where `share` of what is trained on are paintings; of 0 and of 1, one part is held out alone."""
    parts = (pictures, paintings)
    repeats = _repeats([sum(item.repeats for item in part.items if not item.held_out) for part in parts], share)
    kept = [
        (part.store, number, replace(item, repeats=item.repeats * repeat))
        for part, repeat in zip(parts, repeats, strict=True)
        for number, item in enumerate(part.items)
        if repeat or item.held_out
    ]
    items, store = [item for *_, item in kept], JoinedStore([(store, number) for store, number, _ in kept])
    source = hashlib.sha256(f"{pictures.source} {paintings.source}".encode()).hexdigest()
    skipped = pictures.skipped + paintings.skipped
    return LatentDataset(
        items, store, pictures.experts, pictures.plan, source, skipped, mixes_lengths=pictures.mixes_lengths
    )


def _repeats(counts: Sequence[int], share: float) -> list[int]:
    """How often an item of each of two parts is repeated, so that `share` of all samples are of the second.

    counts: samples of each part without repeats
    """
    if 0 in counts or share in (0, 1):
        return [int(share < 1), int(share > 0)]
    ratio = (share / counts[1]) / ((1 - share) / counts[0])
    most = Fraction(max(ratio, 1 / ratio)).limit_denominator(FINEST)
    return [most.denominator, most.numerator] if ratio > 1 else [most.numerator, most.denominator]
