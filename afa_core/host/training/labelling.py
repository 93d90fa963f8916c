"""The ensemble's labels of a dataset's items.

They are kept in the cache item by item, so that an interrupted labelling goes on where it was.
"""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import torch
from torch import Tensor

from ...training.data.dataset import LatentDataset
from ...training.labels import item_draws
from .cache import Cache, cache_key
from .embeddings import embeddings_in
from .pictures import Progress
from .teacher import Teacher


class CachedLabels:
    """The labels of a dataset's items, on disk in float16; held_out: of its held-out items alone."""

    def __init__(self, data: LatentDataset, teacher: str, cache: Cache, held_out: bool):
        self.data, self.teacher, self.cache = data, teacher, cache
        self.items = [i for i, item in enumerate(data.items) if item.held_out or not held_out]

    def name(self, item: int) -> str:
        """The entry of an item's labels: it depends on the teacher and on all that its draws follow from."""
        row, plan = self.data.items[item], self.data.plan
        what = [row.key, row.caption, *embeddings_in(row.caption), row.size, row.held_out, self.data.source]
        return cache_key("labels", self.teacher, item, *what, plan.seed, plan.variants, plan.caption_dropout)

    def labels(self, item: int) -> dict[str, Tensor]:
        return self.cache.get(self.name(item))

    def missing(self) -> list[int]:
        return [item for item in self.items if not self.cache.sound(self.name(item))]

    def make(self, teacher: Teacher, batch_size: int, progress: Progress) -> None:
        """Labels what is missing. Raises SavingError on a full disk: what was labelled stays."""
        missing = self.missing()
        for number, item in enumerate(missing, start=1):
            comfy.model_management.throw_exception_if_processing_interrupted()
            self.cache.put(self.name(item), self._labelled(teacher, item, batch_size))
            progress(number, len(missing), "labelling")

    def _labelled(self, teacher: Teacher, item: int, batch_size: int) -> dict[str, Tensor]:
        draw, dropped = item_draws(self.data, item)
        found: dict[str, list[Tensor]] = {}
        for start in range(0, len(dropped), batch_size):
            part = slice(start, start + batch_size)
            count = len(dropped[part])
            batch = self.data.batch([item] * count, [0] * count, dropped[part]).to(teacher.experts.device)
            some = replace(draw, noise=draw.noise[part], levels=draw.levels[part])
            rows = {"labels": teacher.predict(batch, some)}
            if not rows["labels"].isfinite().all():
                teacher.find_not_finite(batch, some)
            if self.data.items[item].held_out:
                rows |= {f"single_{i}": each for i, each in enumerate(teacher.singles(batch, some))}
            for name, prediction in rows.items():
                found.setdefault(name, []).append(prediction.half().cpu())
        return {name: torch.cat(parts) for name, parts in found.items()}

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(self.cache.path(self.name(item)).stat().st_size for item in self.items)
