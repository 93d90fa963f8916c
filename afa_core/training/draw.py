"""Noise and noise levels of a batch.

Nothing here keeps a random state: what is drawn is a function of (seed, number of the batch), so that a resumed training draws what
an uninterrupted one would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .data.dataset import Batch

GRAIN = 1000
"""Levels are whole thousandths: the timesteps of Stable Diffusion."""
HELD_OUT_SEED = 20_240_517


@dataclass
class Draw:
    """noise [B, C, H, W]; levels [B]: fractions 0..1 of the noise range; seeds: what else is random follows from them."""

    noise: Tensor
    levels: Tensor
    seeds: tuple[int, ...] = ()

    def map(self, change: Callable[[Tensor], Tensor]) -> Draw:
        """The draw with every tensor changed."""
        return Draw(change(self.noise), change(self.levels), self.seeds)

    def to(self, device: torch.device | str) -> Draw:
        return self.map(lambda tensor: tensor.to(device))


def generator(*seeds: int) -> torch.Generator:
    """A generator for this combination of numbers, alike on every machine (always on the CPU)."""
    mixed = 0
    for seed in seeds:
        mixed = (mixed * 1_000_003 + seed + 1) % (2**63 - 25)
    return torch.Generator().manual_seed(mixed)


def training_draw(shape: torch.Size, seed: int, index: int) -> Draw:
    """Uniform levels, as published (AFA section 4.1). index: number of the batch."""
    random = generator(seed, index)
    noise = torch.randn(shape, generator=random)
    return Draw(noise, torch.randint(GRAIN, shape[:1], generator=random) / GRAIN, (seed, index))


def held_out_draw(batch: Batch, look: int = 0) -> Draw:
    """Fixed noise and levels for held-out items, whatever batches they come in.

    Item i has the level 0.618 i mod 1 (golden ratio), so that any few of them cover the range; each further `look`
    takes other noise and other levels.
    """
    shape = batch.latents.shape[1:]
    noise = [torch.randn(shape, generator=generator(HELD_OUT_SEED, look, item)) for item in batch.items]
    places = torch.tensor(batch.items, dtype=torch.float64) * 0.618033988749895 + look * 0.381966011250105
    return Draw(torch.stack(noise), (places % 1 * GRAIN).long() / GRAIN)
