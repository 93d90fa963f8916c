"""Latents and texts in batches. Which picture comes when depends on the seed and the number of the batch alone.

So a resumed training needs no state of an iterator.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ...digests import json_digest, seed_of
from .texts import Text, changed, joined

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class DatasetItem:
    """key:     equal where two items show the same, so that both are trained on or neither
    size:    height and width of its latent
    length:  tokens of its text
    painter: the expert that painted it; None for a picture
    """

    key: str
    name: str
    caption: str
    domain: str
    repeats: int
    size: tuple[int, int]
    length: int
    painter: int | None = None
    held_out: bool = False


@dataclass
class Batch:
    """latents [B, C, h, w] as the sampler sees them; texts: of each expert (texts.py); dropped [B]: captions that gave
    way to the empty one.
    """

    items: list[int]
    latents: Tensor
    texts: list[Text]
    dropped: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor changed."""
        texts = [changed(text, change) for text in self.texts]
        return Batch(self.items, change(self.latents), texts, change(self.dropped))

    def to(self, device: torch.device | str) -> Batch:
        return self.map(lambda tensor: tensor.to(device))


class Store(Protocol):
    """Where a dataset's tensors are: in memory, or on disk."""

    def latent(self, item: int, variant: int) -> Tensor:
        """[C, h, w]."""
        ...

    def text(self, expert: int, item: int, empty: bool) -> dict[str, Tensor]:
        """c_crossattn [1, L, D], and y [1, A] where there is one; `empty`: of no caption at the item's size."""
        ...


@dataclass(frozen=True)
class BatchPlan:
    """What, with the data, decides about every batch. variants: pictures made of each source."""

    seed: int = 0
    batch_size: int = 8
    caption_dropout: float = 0.1
    variants: int = 1


@dataclass
class LatentDataset:
    """source: a digest of the folder and of all that encoded it
    mixes_lengths: whether batches to train on mix texts of any length, as experts can do that evaluate them apart
    """

    items: list[DatasetItem]
    store: Store
    experts: int
    plan: BatchPlan
    source: str = ""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    mixes_lengths: bool = False

    def __post_init__(self) -> None:
        groups = defaultdict(list)
        for index, item in enumerate(self.items):
            if not item.held_out:
                groups[item.size, not self.mixes_lengths and item.length] += [index] * item.repeats
        self._groups = [groups[key] for key in sorted(groups)]
        if not self._groups:
            raise ValueError("Nothing is left to train on: keep some pictures or prompts out of held_out.txt.")

    @property
    def held_out_count(self) -> int:
        return sum(item.held_out for item in self.items)

    @property
    def largest_latent(self) -> tuple[int, int, int]:
        """(C, h, w): what memory has to suffice for."""
        item = max(range(len(self.items)), key=lambda i: math.prod(self.items[i].size))
        return (self.store.latent(item, 0).shape[0], *self.items[item].size)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides about a batch."""
        parts = [self.source, asdict(self.plan), [asdict(item) for item in self.items]]
        return json_digest([*parts, "mixes lengths"] if self.mixes_lengths else parts)

    def batch_indices(self, index: int) -> tuple[list[int], list[int]]:
        """Items and variants of a batch, by its number: all of one shape.

        Each shape has its share of the batches, spread evenly by the golden ratio; within a shape every item comes
        once (or `repeats` times) before any comes again, in an order that changes with every pass.
        """
        group, earlier = self._place(index)
        members = self._groups[group]
        start = earlier * self.plan.batch_size
        positions = [divmod(i, len(members)) for i in range(start, start + self.plan.batch_size)]
        passes = {number: self._pass(group, number) for number, _ in positions}
        items = [members[passes[number][0][place]] for number, place in positions]
        variants = [int(passes[number][1][place]) for number, place in positions]
        return items, variants

    def _pass(self, group: int, number: int) -> tuple[Tensor, Tensor]:
        """The order of a shape's members in one pass over them, and the variant at each place."""
        generator = self._generator("order", group, number)
        members = len(self._groups[group])
        order = torch.randperm(members, generator=generator)
        return order, torch.randint(self.plan.variants, (members,), generator=generator)

    def train_batch(self, index: int) -> Batch:
        items, variants = self.batch_indices(index)
        draw = torch.rand(len(items), generator=self._generator("dropout", index))
        return self.batch(items, variants, draw < self.plan.caption_dropout)

    def held_out_batches(self, batch_size: int) -> Iterator[Batch]:
        """The held-out items, plain and with their captions, in a fixed order."""
        groups = defaultdict(list)
        for index, item in enumerate(self.items):
            if item.held_out:
                groups[item.size, item.length].append(index)
        for key in sorted(groups):
            for start in range(0, len(groups[key]), batch_size):
                yield self.batch_of(groups[key][start : start + batch_size])

    def batch_of(self, items: Sequence[int]) -> Batch:
        """These items, of one shape, plain and with their captions."""
        return self.batch(items, [0] * len(items), torch.zeros(len(items), dtype=torch.bool))

    def summary(self) -> str:
        """One line for a report."""
        shapes = Counter(item.size for item in self.items)
        what = "paintings" if self.items[0].painter is not None else "pictures"
        text = (
            f"{len(self.items)} {what} in {len(shapes)} shape{'s' * (len(shapes) > 1)}, {self.held_out_count} held out"
        )
        if self.skipped:
            names = ", ".join(f"{name} {reason}" for name, reason in self.skipped[:5])
            text += f", {len(self.skipped)} left out: {names}{' ...' if len(self.skipped) > 5 else ''}"
        return text

    def _place(self, index: int) -> tuple[int, int]:
        """(group, how many earlier batches were of that group) of a batch."""
        if len(self._groups) == 1:
            return 0, index
        sizes = torch.tensor([len(group) for group in self._groups], dtype=torch.float64)
        edges = (sizes.cumsum(0) / sizes.sum())[:-1]
        offset = torch.rand((), generator=self._generator("groups"), dtype=torch.float64)
        groups = torch.bucketize((torch.arange(index + 1, dtype=torch.float64) * GOLDEN + offset) % 1, edges, right=True)
        return int(groups[index]), int((groups[:index] == groups[index]).sum())

    def batch(self, items: Sequence[int], variants: Sequence[int], dropped: Tensor) -> Batch:
        """These variants of these items, of one shape; `dropped` [B]: whose caption gives way to the empty one."""
        with torch.inference_mode(False):  # what is read in inference mode could not enter a gradient
            latents = torch.stack([self.store.latent(i, v) for i, v in zip(items, variants, strict=True)])
            texts = [
                [self.store.text(expert, i, bool(drop)) for i, drop in zip(items, dropped, strict=True)]
                for expert in range(self.experts)
            ]
            return Batch(list(items), latents.float(), [{"y": None, **joined(rows)} for rows in texts], dropped)

    def _generator(self, *parts: object) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(json.dumps([self.plan.seed, *parts])))
