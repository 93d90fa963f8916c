"""Noise levels as fractions 0..1 of what a model was trained on, whatever its timesteps mean.

`sampling` is the host's model sampling; levels and sigmas are [B]. Where it has a table of sigmas by timestep (1,000 of them
for Stable Diffusion, Ho et al. 2020), a level is a place in the table: EDM's networks are given a logarithm in place of a
timestep. Elsewhere it is the timestep of a straight path from a picture to noise (rectified flow, arXiv 2209.03003), with
the model's own shift of levels.
"""

from __future__ import annotations

from typing import Any

import torch
from comfy.model_sampling import ModelSamplingCosmosRFlow, ModelSamplingDiscrete
from torch import Tensor


def sigma_of(sampling: Any, level: Tensor) -> Tensor:
    """The sigmas of a training that draws `level` uniformly from 0..1."""
    if _has_table(sampling):
        places = (level.float() * len(sampling.sigmas)).round(decimals=3)  # k / 1000 * 1000 is k again
        return ModelSamplingDiscrete.sigma(sampling, places - _before(sampling)).to(level.device)
    if isinstance(sampling, ModelSamplingCosmosRFlow):  # noise is added to the picture, up to a sigma of 80
        sigma = level / (1 - level)
    else:
        sigma = sampling.sigma(level * getattr(sampling, "multiplier", 1.0))
    # Without noise there is nothing to predict.
    low, high = (bound.to(sigma.device, non_blocking=True) for bound in (sampling.sigma_min, sampling.sigma_max))
    return sigma.clamp(low, high)


def level_of(sampling: Any, sigma: Tensor) -> Tensor:
    """The timestep that the network is given at this sigma, as a fraction of its range."""
    if _has_table(sampling):
        return (ModelSamplingDiscrete.timestep(sampling, sigma) + _before(sampling)) / len(sampling.sigmas)
    return sampling.timestep(sigma) / getattr(sampling, "multiplier", 1.0)


def signal_to_noise(sampling: Any, sigma: Tensor) -> Tensor:
    """SNR [B] of noisy latents, whatever the way in which noise is added to pictures."""
    one, zero = torch.ones_like(sigma), torch.zeros_like(sigma)
    return (sampling.noise_scaling(sigma, zero, one) / sampling.noise_scaling(sigma, one, zero)).square()


def _has_table(sampling: Any) -> bool:
    """Cosmos' has one for schedulers alone."""
    return hasattr(sampling, "log_sigmas") and not isinstance(sampling, ModelSamplingCosmosRFlow)


def _before(sampling: Any) -> float:
    """What part of the first entry's span lies before it: LCM's table keeps the last of every 20 timesteps."""
    return 1 - 1 / getattr(sampling, "skip_steps", 1)
