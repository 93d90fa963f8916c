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
    two kinds meet in d. x [B, C, H, W] is the noisy latent before input scaling, sigma [B]. One of `first`'s kind stays as it is.
    """
    if predicts_like(sampling, first):
        return prediction
    denoised = sampling.calculate_denoised(sigma, prediction.float(), x)
    return denoising_to(denoised, sigma, x, first).to(prediction.dtype)


def denoising_to(denoised: Tensor, sigma: Tensor, x: Tensor, sampling: Any) -> Tensor:
    """The prediction [B, C, H, W] of `sampling`'s kind by which x denoises to `denoised`."""
    return (denoised - sampling.calculate_denoised(sigma, torch.zeros_like(x), x)) / slope(sampling, sigma)


def slope(sampling: Any, sigma: Tensor) -> Tensor:
    """How much the denoised latent changes with a prediction of `sampling`'s kind, [B, 1, 1, 1]."""
    one = torch.ones_like(sigma)[:, None, None, None]
    return sampling.calculate_denoised(sigma, one, torch.zeros_like(one))


def fuse_in_first_terms(fusion: Fusion, samplings: list, sigma: Tensor, x: Tensor, first: Any) -> Fusion:
    """The fusion, with every expert's prediction converted before it is fused.

    first: the sampling in whose terms to fuse; samplings: of the experts that run
    """
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
