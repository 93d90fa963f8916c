"""MagicFusion: at every position follow the model whose guidance is the most salient (Zhao et al., ICCV 2023).

It blends guided predictions, so unlike every other fusion it acts after the networks have run, where the
prediction for the prompt and the one for the negative prompt are both known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .fusion import Feature, FusionError, FusionState
from .points import FusionPoint

MODES = ("fuse throughout", "model_1 first, then fuse", "fuse first, then model_1")
REFERENCES = ("model_1", "each its own")
TIMESTEPS = 1000
"""Of the paper's models: its switch is one of these."""
KERNEL = 4
"""Side of the smoothing window, which the paper chose for latents of 64 x 64."""


@dataclass(frozen=True)
class MagicFusion:
    """Saliency-aware noise blending (arXiv 2303.13126, section 3.2, and its official code), for two models and more.

    temperatures:     k_n, one a model; the larger, the fewer and sharper the places a model wins. Empty: 1 each
    mode:             of MODES; the paper's merge modes 1 and 2, and no switch at all
    switch_timestep:  T0 of 0..999; before the switch means timesteps above it
    reference:        what the guided predictions are compared with: model_1's unguided one (as the official code
                      does) or each model's own
    softness:         0 takes one model a position, as the paper does; above 0 blends by softmax(L / softness)
    resolution_aware: lets the smoothing window grow with the latent

    Temperatures and guidance scale multiply: the paper's are meant for a scale of 10.
    """

    temperatures: tuple[float, ...] = ()
    mode: str = MODES[0]
    switch_timestep: int = 850
    reference: str = REFERENCES[0]
    softness: float = 0.0
    resolution_aware: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise FusionError(f"The mode should be one of {', '.join(MODES)}, found {self.mode!r:.40}.")
        if self.reference not in REFERENCES:
            raise FusionError(f"The reference should be one of {', '.join(REFERENCES)}, found {self.reference!r:.40}.")
        if not all(math.isfinite(k) and k > 0 for k in self.temperatures):
            raise FusionError(f"The temperatures should be numbers above 0, found {list(self.temperatures)}.")

    def bind(self, points: list[FusionPoint], experts: int) -> MagicFusion:
        """Raises FusionError where there are temperatures, but not one an expert."""
        temperatures = self.temperatures or (1.0,) * experts
        if len(temperatures) != experts:
            raise FusionError(
                f"The magic fusion has {len(temperatures)} temperatures, but {experts} models are connected: "
                "give one temperature a model, decimals with a point as in 1.5, or leave them empty."
            )
        return replace(self, temperatures=temperatures)

    def __call__(self, point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        """Inside the networks nothing is fused."""
        return features

    def fuses_at(self, timestep: float) -> bool:
        """Whether this training timestep is fused; elsewhere model_1 runs alone."""
        if self.mode == MODES[0]:
            return True
        return (timestep > self.switch_timestep) == (self.mode == MODES[2])

    def shares(self, guided: Sequence[Tensor], unguided: Sequence[Tensor], scale: float) -> Tensor:
        """Each model's share by position, [B, N, H, W], from noise predictions [B, C, H, W] of each.

        scale: the guidance scale.
        """
        own = self.reference == REFERENCES[1]
        references = unguided if own else [unguided[0]] * len(guided)
        kernel = KERNEL
        if self.resolution_aware:
            kernel *= max(1, round(min(guided[0].shape[-2:]) / 64))
        logits = []
        for e, e0, k in zip(guided, references, self.temperatures, strict=True):
            salient = k * saliency(scale * (e.float() - e0.float()), kernel)
            # The log of the softmax over all positions, which cannot underflow.
            logits.append(salient - salient.flatten(1).logsumexp(1)[:, None, None])
        stacked = torch.stack(logits, dim=1)
        if self.softness > 0:
            return (stacked / self.softness).softmax(dim=1)
        winner = stacked.argmax(dim=1)  # of equals the first: model_1
        return F.one_hot(winner, len(guided)).movedim(-1, 1).to(stacked.dtype)


def saliency(response: Tensor, kernel: int = KERNEL) -> Tensor:
    """How much guidance changes each position: [B, H, W] of a response [B, C, H, W] to guidance.

    Its size, smoothed by a window of even side (the border counts zeros, as in the official code), and
    averaged over the channels.
    """
    smooth = F.avg_pool2d(response.abs(), kernel, stride=1, padding=kernel // 2 - 1)
    smooth = F.interpolate(smooth, response.shape[-2:], mode="bilinear", align_corners=False)
    return smooth.mean(dim=1)
