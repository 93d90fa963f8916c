"""Pictures [B, H, W, C] in 0..1 as the scorers' networks were trained to see them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def fit_into_square(pictures: Tensor, size: int) -> Tensor:
    """[B, size, size, C]: the longest side becomes `size`, the rest is black (HPSv2's preprocessing)."""
    height, width = pictures.shape[1:3]
    scale = size / max(height, width)
    inner = (round(height * scale), round(width * scale))
    if inner != (height, width):
        pictures = F.interpolate(pictures.movedim(-1, 1), inner, mode="bicubic", antialias=True).movedim(1, -1)
    top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
    padded = F.pad(pictures, (0, 0, left, size - inner[1] - left, top, size - inner[0] - top))
    return padded.clamp(0, 1)
