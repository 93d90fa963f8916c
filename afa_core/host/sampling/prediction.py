"""Experts that predict different things (eps, v): all predictions are fused in the first expert's terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...fusion.fusion import Feature, Fusion, FusionState
from ...fusion.points import FusionPoint


def predicts_like(sampling: Any, first: Any) -> bool:
    """Whether two of the host's model samplings read a prediction alike."""
    return type(sampling).calculate_denoised is type(first).calculate_denoised


def converted(prediction: Tensor, sigma: Tensor, x: Tensor, sampling, first) -> Tensor:
    """A prediction [B, C, H, W] of `sampling`'s kind as the prediction of `first`'s kind that denoises alike.

    The host's `calculate_denoised` is affine in the prediction whatever its kind, d = a(x) + b p, so the
    two kinds meet in d. x is the noisy latent before input scaling, sigma [B]. One of `first`'s kind stays as it is.
    """
    if predicts_like(sampling, first):
        return prediction
    zero = torch.zeros_like(x)
    denoised = sampling.calculate_denoised(sigma, prediction.float(), x)
    slope = first.calculate_denoised(sigma, torch.ones_like(x), zero)
    return ((denoised - first.calculate_denoised(sigma, zero, x)) / slope).to(prediction.dtype)


def fuse_in_first_terms(fusion: Fusion, samplings: list, sigma: Tensor, x: Tensor, first=None) -> Fusion:
    """The fusion, with every expert's prediction converted before it is fused.

    first: the sampling in whose terms to fuse, where it is not that of the first prediction.
    """
    first = first or samplings[0]
    if all(predicts_like(sampling, first) for sampling in samplings):
        return fusion

    def fuse(point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        if point.is_prediction:
            features = [
                feature if feature is None else converted(feature, sigma, x, sampling, first)
                for feature, sampling in zip(features, samplings, strict=True)
            ]
        return fusion(point, features, state)

    return fuse
