"""Pictures of families for videos: latents of a single frame, [B, C, 1, H, W]. Fusions take [B, C, H, W]."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def without_frames(latent: Tensor) -> Tensor:
    """A picture's latent [B, C, H, W], of one frame or without such a dimension."""
    return latent.squeeze(2) if latent.ndim == 5 else latent


def with_frames(latent: Tensor, like: Tensor) -> Tensor:
    """A latent [B, C, H, W] in as many dimensions as another one."""
    return latent.unsqueeze(2) if like.ndim == 5 else latent


def latent_in(model: Any, latent: Tensor) -> Tensor:
    """A VAE's latent as the sampler of a host's model sees it, [B, C, H, W]."""
    return without_frames(model.process_latent_in(in_format(model, latent)))


def latent_out(model: Any, latent: Tensor) -> Tensor:
    """The inverse of `latent_in`, as the VAE takes it."""
    return model.process_latent_out(in_format(model, latent))


def in_format(model: Any, latent: Tensor) -> Tensor:
    """A latent in as many dimensions as a host's model takes."""
    return latent.unsqueeze(2) if latent.ndim == 4 and model.latent_format.latent_dimensions == 3 else latent
