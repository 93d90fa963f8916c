"""Pictures of families that know videos too: latents of a single frame, [B, C, 1, H, W]. Fusions know [B, C, H, W]."""

from __future__ import annotations

from torch import Tensor


def without_frames(latent: Tensor) -> Tensor:
    """A picture's latent [B, C, H, W], of one frame or without such a dimension."""
    return latent.squeeze(2) if latent.ndim == 5 else latent


def with_frames(latent: Tensor, like: Tensor) -> Tensor:
    """A latent [B, C, H, W] in as many dimensions as another one."""
    return latent.unsqueeze(2) if like.ndim == 5 else latent
