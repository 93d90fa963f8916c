"""Pictures in the portions that a scorer's network sees at once."""

from __future__ import annotations

from collections.abc import Iterator

import comfy.model_management
from torch import Tensor

BATCH = 8


def batches(pictures: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(number of the first, pictures [b, H, W, 3]); stops where the user cancels."""
    for start in range(0, len(pictures), BATCH):
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield start, pictures[start : start + BATCH, ..., :3]
