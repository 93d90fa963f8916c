"""Noise levels as fractions 0..1 of what a model was trained on, whatever its timesteps mean."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Noise(Protocol):
    """`sampling` is the host's model sampling; levels and sigmas are [B]."""

    def sigma(self, sampling: Any, level: Tensor) -> Tensor:
        """The noise level of a training that draws `level` uniformly from 0..1."""
        ...

    def level(self, sampling: Any, sigma: Tensor) -> Tensor:
        """The timestep that the network is given at this sigma, as a fraction of its range."""
        ...

    def snr(self, sigma: Tensor) -> Tensor:
        """Signal-to-noise ratio of a noisy latent."""
        ...


class DiscreteNoise:
    """A table of sigmas by timestep: 1,000 of them for Stable Diffusion (Ho et al. 2020)."""

    def sigma(self, sampling: Any, level: Tensor) -> Tensor:
        timesteps = (level.float() * len(sampling.sigmas)).round(decimals=3)  # k / 1000 * 1000 is k again
        return sampling.sigma(timesteps).to(level.device)

    def level(self, sampling: Any, sigma: Tensor) -> Tensor:
        return sampling.timestep(sigma) / len(sampling.sigmas)

    def snr(self, sigma: Tensor) -> Tensor:
        return sigma.square().reciprocal()


class FlowNoise:
    """Straight paths from a picture to noise (rectified flow, arXiv 2209.03003), with the model's own shift of levels."""

    def sigma(self, sampling: Any, level: Tensor) -> Tensor:
        if hasattr(sampling, "multiplier"):
            level = level * sampling.multiplier
        elif hasattr(sampling, "log_sigmas"):  # Cosmos': sigma counts from the picture, and ends at 80
            return (level / (1 - level)).clamp(max=float(sampling.sigma_max))
        return sampling.sigma(level)

    def level(self, sampling: Any, sigma: Tensor) -> Tensor:
        return sampling.timestep(sigma) / getattr(sampling, "multiplier", 1.0)

    def snr(self, sigma: Tensor) -> Tensor:
        return (1 / sigma - 1).square()
