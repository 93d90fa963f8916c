"""The experts' own denoising loss under a fusion, and the losses of what needs no training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..fusion.averages import StaticFusion
from ..fusion.fusion import Feature, Fusion, FusionState, Observe
from ..fusion.points import FusionPoint
from .data.dataset import Batch
from .draw import Draw


class FrozenExperts(Protocol):
    """The experts as training sees them: one network that takes a fusion.

    Latents, noise and predictions are [B, C, H, W] as the sampler sees them, levels and sigmas [B].
    """

    points: list[FusionPoint]
    labels: list[str]
    device: torch.device
    compute_dtype: torch.dtype
    checkpointing: bool

    def sigma(self, levels: Tensor) -> Tensor:
        """Of noise levels 0..1."""
        ...

    def snr(self, sigma: Tensor) -> Tensor:
        """The ratio of signal and noise [B]."""
        ...

    def slope(self, sigma: Tensor) -> Tensor:
        """How much the denoised latents change with the first expert's prediction, [B, 1, 1, 1]."""
        ...

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """The latents under this much noise."""
        ...

    def target(self, latents: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """What the first expert should predict so that it denoises to the latents."""
        ...

    def predict(
        self, fusion: Fusion, noisy: Tensor, sigma: Tensor, texts: list[dict], observe: Observe | None = None
    ) -> Tensor:
        """The fused prediction, in the first expert's terms. texts: of each expert (data/texts.py); observe: as in FusionState."""
        ...


def sample_loss(
    experts: FrozenExperts,
    fusion: Fusion,
    batch: Batch,
    draw: Draw,
    observe: Observe | None = None,
    min_snr_gamma: float = 0.0,
) -> Tensor:
    """Mean squared error [B] of the fused prediction, in the first expert's terms (eps, v, ...)."""
    sigma, noisy, target = problem(experts, batch, draw)
    error = experts.predict(fusion, noisy, sigma, batch.texts, observe) - target
    loss = mean_square(error)
    return loss * snr_weight(experts, sigma, min_snr_gamma) if min_snr_gamma else loss


def mean_square(error: Tensor) -> Tensor:
    """[B, C, H, W] to [B]."""
    return error.square().mean((1, 2, 3))


def snr_weight(experts: FrozenExperts, sigma: Tensor, gamma: float) -> Tensor:
    """Of the loss of each sample [B]: min(SNR, gamma) / SNR of noise, min(SNR, gamma) / (SNR + 1) of v (arXiv 2303.09556).

    Both are min(SNR, gamma) for the error of the denoised latents, which a prediction's error moves by its slope.
    """
    return experts.snr(sigma).clamp(max=gamma) * experts.slope(sigma).flatten().square()


@dataclass
class Balance:
    """Gathers the shares of one batch, which may be evaluated in parts; their imbalance can be a term of the loss.

    shares: the mean [N] at every fusion point, by its index; samples: of how many
    """

    shares: dict[int, Tensor] = field(default_factory=dict)
    samples: Counter[int] = field(default_factory=Counter)

    def observe(self, point: FusionPoint, shares: Tensor) -> None:
        mean = shares.float().mean((0, 2, 3))
        self.samples[point.index] += len(shares)
        earlier = self.shares.get(point.index, mean)
        self.shares[point.index] = torch.lerp(earlier, mean, len(shares) / self.samples[point.index])

    def imbalance(self) -> Tensor:
        """log N - entropy of the mean shares, averaged over the fusion points: 0 when all experts have the
        same mean weight, wherever each has it."""
        shares = torch.stack(list(self.shares.values()))
        entropy = -(shares * shares.clamp_min(1e-12).log()).sum(1)
        return math.log(shares.shape[1]) - entropy.mean()


class Predictions:
    """A fusion that fuses nothing and keeps the experts' own predictions: N single models in one pass."""

    def __init__(self) -> None:
        self.predictions: list[Tensor] = []

    def __call__(self, point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        if point.is_prediction:
            self.predictions = [feature for feature in features if feature is not None]
        return features


@torch.no_grad()
def baseline_losses(experts: FrozenExperts, batch: Batch, draw: Draw) -> dict[str, Tensor]:
    """Losses [B] without a trained aggregator: every expert alone, the noise average and the block average."""
    sigma, noisy, target = problem(experts, batch, draw)
    alone = Predictions()
    experts.predict(alone, noisy, sigma, batch.texts)
    average = StaticFusion("block average").bind(experts.points, len(experts.labels))
    averaged = experts.predict(average, noisy, sigma, batch.texts)
    predictions = [prediction.float() for prediction in alone.predictions]
    rows = dict(zip(experts.labels, predictions, strict=True))
    rows["noise average"] = torch.stack(predictions).mean(0)
    rows["block average"] = averaged.float()
    return {name: mean_square(row - target) for name, row in rows.items()}


def problem(experts: FrozenExperts, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """(sigma [B], noisy latents [B, C, H, W], what should be predicted [B, C, H, W])."""
    draw = draw.to(batch.latents.device)
    sigma = experts.sigma(draw.levels)
    noisy = experts.noised(batch.latents, draw.noise.to(batch.latents.dtype), sigma)
    return sigma, noisy, experts.target(batch.latents, noisy, sigma)
