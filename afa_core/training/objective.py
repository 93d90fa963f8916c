"""What an aggregator is trained on: the experts' own denoising loss, at noise drawn for every step.

Nothing here keeps a random state: noise, timesteps and dropped captions are functions of (seed, step),
so that a resumed training draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..fusion.averages import StaticFusion
from ..fusion.fusion import Feature, Fusion, FusionState
from ..fusion.points import FusionPoint
from .data.dataset import Batch

TIMESTEPS = 1000
HELD_OUT_SEED = 20_240_517


class FrozenExperts(Protocol):
    """The experts as training sees them: one network that takes a fusion. Texts are one dict an expert."""

    points: list[FusionPoint]
    labels: list[str]
    device: torch.device
    compute_dtype: torch.dtype
    checkpointing: bool

    def sigma(self, timesteps: Tensor) -> Tensor: ...

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor: ...

    def target(self, latents: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor: ...

    def predict(
        self, fusion: Fusion, noisy: Tensor, sigma: Tensor, texts: list[dict], observe: Callable | None = None
    ) -> Tensor: ...


@dataclass
class Draw:
    """Noise [B, C, H, W] and timesteps [B] for one batch."""

    noise: Tensor
    timesteps: Tensor


def generator(*seeds: int) -> torch.Generator:
    """A generator for this combination of numbers, alike on every machine (always on the CPU)."""
    mixed = 0
    for seed in seeds:
        mixed = (mixed * 1_000_003 + seed + 1) % (2**63 - 25)
    return torch.Generator().manual_seed(mixed)


def training_draw(shape: torch.Size, seed: int, index: int) -> Draw:
    """Uniform timesteps, as published (AFA section 4.1). index counts batches, not steps."""
    random = generator(seed, index)
    return Draw(torch.randn(shape, generator=random), torch.randint(TIMESTEPS, shape[:1], generator=random))


def held_out_draw(batch: Batch, look: int = 0) -> Draw:
    """Fixed noise and timesteps for held-out items, whatever batches they come in.

    Items walk through the noise levels by the golden ratio, so that any few of them cover the range; each
    further `look` at them takes other noise and other levels.
    """
    shape = batch.latents.shape[1:]
    noise = [torch.randn(shape, generator=generator(HELD_OUT_SEED, look, item)) for item in batch.items]
    places = torch.tensor(batch.items, dtype=torch.float64) * 0.618033988749895 + look * 0.381966011250105
    return Draw(torch.stack(noise), (places % 1 * TIMESTEPS).long())


def sample_loss(
    experts: FrozenExperts,
    fusion: Fusion,
    batch: Batch,
    draw: Draw,
    observe: Callable[[FusionPoint, Tensor], None] | None = None,
    min_snr_gamma: float = 0.0,
) -> Tensor:
    """Mean squared error [B] of the fused prediction, in the first expert's terms (eps, or v)."""
    sigma, noisy, target = _problem(experts, batch, draw)
    error = experts.predict(fusion, noisy, sigma, batch.texts, observe) - target
    loss = error.square().mean((1, 2, 3))
    return loss * snr_weight(sigma, min_snr_gamma) if min_snr_gamma else loss


def snr_weight(sigma: Tensor, gamma: float) -> Tensor:
    """min(SNR, gamma) / SNR for each sample [B] (arXiv 2303.09556), SNR = 1 / sigma^2."""
    return (sigma.square() * gamma).clamp(max=1)


@dataclass
class Balance:
    """Gathers the shares of one evaluation; their imbalance can be a term of the loss."""

    shares: dict[int, Tensor] = field(default_factory=dict)

    def observe(self, point: FusionPoint, shares: Tensor) -> None:
        self.shares[point.index] = shares.float().mean((0, 2, 3))

    def imbalance(self) -> Tensor:
        """log N - entropy of the mean shares, averaged over the fusion points: 0 when all experts are followed
        equally often, whoever is followed where."""
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
    sigma, noisy, target = _problem(experts, batch, draw)
    alone = Predictions()
    experts.predict(alone, noisy, sigma, batch.texts)
    average = StaticFusion("block average").bind(experts.points, len(experts.labels))
    averaged = experts.predict(average, noisy, sigma, batch.texts)
    predictions = [prediction.float() for prediction in alone.predictions]
    rows = dict(zip(experts.labels, predictions, strict=True))
    rows["noise average"] = torch.stack(predictions).mean(0)
    rows["block average"] = averaged.float()
    return {name: (row - target).square().mean((1, 2, 3)) for name, row in rows.items()}


def _problem(experts: FrozenExperts, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """(sigma [B], noisy latents [B, C, H, W], what should be predicted [B, C, H, W])."""
    sigma = experts.sigma(draw.timesteps.to(batch.latents.device))
    noisy = experts.noised(batch.latents, draw.noise.to(batch.latents), sigma)
    return sigma, noisy, experts.target(batch.latents, noisy, sigma)
