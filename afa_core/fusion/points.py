"""Fusion points: the places of a network where the experts' features become one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FusionPoint:
    """One place of fusion (AFA section 3.2).

    index:    number of the aggregator that belongs to it
    name:     "input 0" ... "middle", "output 0" ..., and "prediction" for the experts' outputs
    channels: C of the features [B, C, H, W] that meet here
    stride:   size of the latent divided by the size of these features
    """

    index: int
    name: str
    channels: int
    stride: int

    @property
    def is_prediction(self) -> bool:
        return self.name == "prediction"
