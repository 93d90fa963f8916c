"""Predictions of a teacher, kept so that a student can train without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .data.dataset import Batch, LatentDataset
from .draw import GRAIN, Draw, generator, held_out_draw

LOOKS = 2
"""Draws of noise and level at every held-out item."""


@dataclass
class LabelledBatch(Batch):
    """A batch with the noise that the teacher saw, and its predictions [B, C, h, w], in its own terms.

    singles: predictions of each of its experts alone, on held-out items; one of [B, C, h, w] an expert
    """

    draw: Draw
    labels: Tensor
    singles: list[Tensor]

    def map(self, change: Callable[[Tensor], Tensor]) -> LabelledBatch:
        parts = vars(super().map(change))
        return LabelledBatch(
            **parts, draw=self.draw.map(change), labels=change(self.labels), singles=[*map(change, self.singles)]
        )


class LabelStore(Protocol):
    """Where labels are kept."""

    def labels(self, item: int) -> dict[str, Tensor]:
        """`labels` [K, C, h, w] of an item's draws; of a held-out one also `single_0` ... of each expert."""
        ...


class LabelledDataset:
    """A dataset whose batches carry labels. Its plan has as many variants as every item has labels."""

    def __init__(self, data: LatentDataset, store: LabelStore):
        self.data, self.store = data, store

    @property
    def digest(self) -> str:
        return self.data.digest

    def train_batch(self, index: int) -> Batch:
        items, numbers = self.data.batch_indices(index)
        draws = [label_draw(self.data, item, number) for item, number in zip(items, numbers, strict=True)]
        dropped = torch.tensor([drop for _, drop in draws])
        batch = self.data.batch(items, [0] * len(items), dropped)
        return self._labelled(batch, joined([draw for draw, _ in draws]), numbers)

    def held_out_batches(self, batch_size: int) -> Iterator[LabelledBatch]:
        for batch in self.data.held_out_batches(batch_size):
            for look in range(LOOKS):
                yield self._labelled(batch, held_out_draw(batch, look), [look] * len(batch.items))

    def _labelled(self, batch: Batch, draw: Draw, numbers: Sequence[int]) -> LabelledBatch:
        rows = [self.store.labels(item) for item in batch.items]
        parts = {
            name: torch.stack([row[name][number] for row, number in zip(rows, numbers, strict=True)]).float()
            for name in rows[0]
        }
        labels = parts.pop("labels")
        return LabelledBatch(**vars(batch), draw=draw, labels=labels, singles=list(parts.values()))


class HeldOutLabels(LabelledDataset):
    """A dataset whose held-out batches alone carry labels: the teacher labels all others while the student trains."""

    def train_batch(self, index: int) -> Batch:
        return self.data.train_batch(index)


def label_draw(data: LatentDataset, item: int, number: int) -> tuple[Draw, bool]:
    """Noise [1, C, h, w] and level [1] of one label, and whether its caption gives way to the empty one."""
    random = generator(data.plan.seed, item, number)
    shape = data.store.latent(item, 0).shape
    noise, level = torch.randn(1, *shape, generator=random), torch.randint(GRAIN, (1,), generator=random) / GRAIN
    return Draw(noise, level), bool(torch.rand((), generator=random) < data.plan.caption_dropout)


def item_draws(data: LatentDataset, item: int) -> tuple[Draw, Tensor]:
    """All draws that an item has labels for, and which of their captions [K] are dropped."""
    if data.items[item].held_out:
        batch = data.batch_of([item])
        return joined([held_out_draw(batch, look) for look in range(LOOKS)]), torch.zeros(LOOKS, dtype=torch.bool)
    draws = [label_draw(data, item, number) for number in range(data.plan.variants)]
    return joined([draw for draw, _ in draws]), torch.tensor([drop for _, drop in draws])


def joined(draws: Sequence[Draw]) -> Draw:
    """The draws of several batches as one's."""
    return Draw(torch.cat([draw.noise for draw in draws]), torch.cat([draw.levels for draw in draws]))
