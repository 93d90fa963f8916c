"""Pictures [B, H, W, C] in 0..1 as the scorers' networks were trained to see them."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def fit_into_square(pictures: Tensor, size: int) -> Tensor:
    """[B, size, size, C]: the longest side becomes `size`, the rest is black (HPSv2's preprocessing)."""
    height, width = pictures.shape[1:3]
    scale = size / max(height, width)
    inner = (round(height * scale), round(width * scale))
    if inner != (height, width):
        # Not kornia's resize, whose blur against aliasing differs from the one these networks were trained with.
        channels_first = rearrange(pictures, "b h w c -> b c h w")
        pictures = rearrange(F.interpolate(channels_first, inner, mode="bicubic", antialias=True), "b c h w -> b h w c")
    top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
    padded = F.pad(pictures, (0, 0, left, size - inner[1] - left, top, size - inner[0] - top))
    return padded.clamp(0, 1)
