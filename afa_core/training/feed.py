"""Batches and their noise, one ahead of the step that trains on them."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from .data.dataset import Batch
from .draw import Draw, training_draw
from .task import Data

Fed = tuple[Batch, Draw]


class Feed:
    """feed[index]: a batch and its draw on a device. A thread makes the next one meanwhile.

    What it makes depends on the index alone, so that a resumed training is fed the same. On CUDA everything is
    copied from pinned memory, and nothing waits for the copy.
    """

    def __init__(self, dataset: Data, seed: int, device: torch.device):
        self.dataset, self.seed, self.device = dataset, seed, device
        self._thread = ThreadPoolExecutor(1, "afa-batches")
        self._coming: dict[int, Future[Fed]] = {}

    def __getitem__(self, index: int) -> Fed:
        ready = self._coming.pop(index, None) or self._thread.submit(self._make, index)
        self._coming = {index + 1: self._thread.submit(self._make, index + 1)}
        batch, draw = ready.result()
        return batch.map(self._moved), draw.map(self._moved)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _make(self, index: int) -> Fed:
        batch = self.dataset.train_batch(index)
        draw = training_draw(batch.latents.shape, self.seed, index)
        if self.device.type != "cuda":
            return batch, draw
        return batch.map(Tensor.pin_memory), draw.map(Tensor.pin_memory)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=tensor.is_pinned())
