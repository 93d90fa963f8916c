"""Noise levels as fractions 0..1 of what a model was trained on, whatever its timesteps mean."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from comfy.model_sampling import ModelSamplingDiscrete
from torch import Tensor


class Noise(Protocol):
    """`sampling` is the host's model sampling; levels and sigmas are [B]."""

    def sigma(self, sampling: Any, level: Tensor) -> Tensor:
        """The noise level of a training that draws `level` uniformly from 0..1."""
        ...

    def level(self, sampling: Any, sigma: Tensor) -> Tensor:
        """The timestep that the network is given at this sigma, as a fraction of its range."""
        ...


def signal_to_noise(sampling: Any, sigma: Tensor) -> Tensor:
    """SNR [B] of noisy latents, whatever the way in which noise is added to pictures."""
    one, zero = torch.ones_like(sigma), torch.zeros_like(sigma)
    return (sampling.noise_scaling(sigma, zero, one) / sampling.noise_scaling(sigma, one, zero)).square()


class DiscreteNoise:
    """A table of sigmas by timestep: 1,000 of them for Stable Diffusion (Ho et al. 2020).

    A level is a place in the table, as EDM's networks are given a logarithm in place of a timestep. Fine-tunes to straight
    paths have levels as FlowNoise has them.
    """

    def sigma(self, sampling: Any, level: Tensor) -> Tensor:
        if self._is_flow(sampling):
            return FlowNoise().sigma(sampling, level)
        places = (level.float() * len(sampling.sigmas)).round(decimals=3)  # k / 1000 * 1000 is k again
        return ModelSamplingDiscrete.sigma(sampling, places - self._before(sampling)).to(level.device)

    def level(self, sampling: Any, sigma: Tensor) -> Tensor:
        if self._is_flow(sampling):
            return FlowNoise().level(sampling, sigma)
        return (ModelSamplingDiscrete.timestep(sampling, sigma) + self._before(sampling)) / len(sampling.sigmas)

    @staticmethod
    def _is_flow(sampling: Any) -> bool:
        return not hasattr(sampling, "log_sigmas")

    @staticmethod
    def _before(sampling: Any) -> float:
        """What part of the first entry's span lies before it: LCM's table keeps the last of every 20 timesteps."""
        return 1 - 1 / getattr(sampling, "skip_steps", 1)


class FlowNoise:
    """Straight paths from a picture to noise (rectified flow, arXiv 2209.03003), with the model's own shift of levels."""

    def sigma(self, sampling: Any, level: Tensor) -> Tensor:
        if hasattr(sampling, "log_sigmas"):  # Cosmos': noise is added to the picture, up to a sigma of 80
            sigma = level / (1 - level)
        else:
            sigma = sampling.sigma(level * getattr(sampling, "multiplier", 1.0))
        # Without noise there is nothing to predict.
        low, high = (bound.to(sigma.device, non_blocking=True) for bound in (sampling.sigma_min, sampling.sigma_max))
        return sigma.clamp(low, high)

    def level(self, sampling: Any, sigma: Tensor) -> Tensor:
        return sampling.timestep(sigma) / getattr(sampling, "multiplier", 1.0)
