"""Are these experts worth ensembling? What their errors alone show, before any training.

Every picture is noised several times at several levels and every expert predicts each. Where their errors
differ, and differ alike under fresh noise, there is something that an aggregator can learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = (50, 150, 300, 500, 700, 900)
"""Noise levels in thousandths of what training draws from: the last details first, outlines last."""
SHARPNESS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""How strongly a soft router follows the better expert; 0 is the best fixed mix."""
BLUR = 5
RESAMPLES = 2000


@dataclass
class Cell:
    """One picture at one level, K experts. Losses are mean squared errors in the first expert's terms.

    gram [K, K]: mean products of the experts' errors; picture, pick: losses of these routers;
    mix [len(SHARPNESS)]; wins [K]: the share of places where each is best; agreement: the share of places
    with the same winner under two noises.
    """

    picture: float
    pick: float
    mix: Tensor
    gram: Tensor
    wins: Tensor
    agreement: float


def gram_of(errors: Tensor) -> Tensor:
    """Errors [K, M, C, H, W] of K experts under M noises to their mean products [K, K]."""
    flat = errors.flatten(1).double()
    return flat @ flat.T / flat.shape[1]


def simplex_minimum(gram: Tensor) -> Tensor:
    """Weights [..., K], none negative and of sum 1, with the least w' G w, for grams [..., K, K]; exact.

    The minimum lies inside one face of the simplex, and there are few: 2^K - 1.
    """
    experts = gram.shape[-1]
    best = torch.full(gram.shape[:-2], torch.inf, dtype=gram.dtype)
    weights = torch.zeros(gram.shape[:-1], dtype=gram.dtype)
    for count in range(1, experts + 1):
        for face in combinations(range(experts), count):
            index = torch.tensor(face)
            part = sum_one_minimum(gram[..., index[:, None], index])
            inside = torch.zeros_like(weights)
            inside[..., index] = part
            loss = quadratic(gram, inside)
            better = (part >= 0).all(-1) & (loss < best - 1e-12 * loss.abs())
            best = torch.where(better, loss, best)
            weights = torch.where(better[..., None], inside, weights)
    return weights


def sum_one_minimum(gram: Tensor) -> Tensor:
    """Weights [..., K] of sum 1, negative ones allowed, with the least w' G w: G^-1 1 / (1' G^-1 1)."""
    size = gram.shape[-1]
    scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None].clamp_min(1e-30)
    # Twice the same expert has many solutions: this takes the one of equal weights.
    safe = gram / scale + 1e-9 * torch.eye(size, dtype=gram.dtype)
    solved = torch.linalg.solve(safe, torch.ones(*gram.shape[:-1], 1, dtype=gram.dtype))[..., 0]
    return solved / solved.sum(-1, keepdim=True)


def quadratic(gram: Tensor, weights: Tensor) -> Tensor:
    """w' G w, of grams [..., K, K] and weights [..., K], as [...]."""
    return torch.einsum("...i,...ij,...j->...", weights, gram, weights)


def diversity(gram: Tensor) -> Tensor:
    """Correlations [K, K] of the experts' errors; 1 off the diagonal means nothing to gain."""
    norm = gram.diagonal().clamp_min(1e-30).sqrt()
    return gram / norm[:, None] / norm


def local_errors(errors: Tensor) -> Tensor:
    """Smoothed squared errors [K, M, H, W], over all channels: an aggregator's map has one share for all."""
    squared = errors.float().square().mean(2)
    return F.avg_pool2d(squared, BLUR, 1, BLUR // 2, count_include_pad=False)


def examine(errors: Tensor, prior: Tensor) -> Cell:
    """One picture at one level: errors [K, M, C, H, W], M >= 2, and the best fixed mix [K] over everything.

    Routers decide about a noise from the others alone.
    """
    draws = errors.shape[1]
    if draws < 2:
        raise ValueError(f"A probe needs 2 noises or more for every picture, found {draws}.")
    local = local_errors(errors)
    known = (local.sum(1, keepdim=True) - local) / (draws - 1)
    best = known.argmin(0)
    squared = errors.square().mean(2)
    pick = squared.gather(0, best[None])[0].mean()
    per_draw = torch.stack([gram_of(errors[:, m : m + 1]) for m in range(draws)])
    others = (per_draw.sum(0) - per_draw) / (draws - 1)
    picture = quadratic(per_draw, simplex_minimum(others)).mean()
    return Cell(
        picture=picture.item(),
        pick=pick.item(),
        mix=_soft(errors, known, prior),
        gram=per_draw.mean(0),
        wins=_wins(local),
        agreement=_agreement(local.argmin(0)),
    )


def _soft(errors: Tensor, known: Tensor, prior: Tensor) -> Tensor:
    """Losses [len(SHARPNESS)] of weights prior * exp(-sharpness * error / median error) at every place."""
    relative = known / known.flatten(2).median(-1).values.mean(0)[None, :, None, None].clamp_min(1e-30)
    floor = prior.clamp_min(0.02).float().log()[:, None, None, None]
    fixed = prior.clamp_min(1e-30).float().log()[:, None, None, None]
    losses = []
    for sharpness in SHARPNESS:
        weights = ((floor if sharpness else fixed) - sharpness * relative).softmax(0)
        losses.append((weights[:, :, None] * errors).sum(0).square().mean())
    return torch.stack(losses).double()


def _wins(local: Tensor) -> Tensor:
    best = local.argmin(0).flatten()
    return torch.bincount(best, minlength=len(local)).double() / best.numel()


def _agreement(winners: Tensor) -> float:
    """Over all pairs of noises, the share of places with one winner; winners [M, H, W]."""
    pairs = list(combinations(range(len(winners)), 2))
    return sum((winners[a] == winners[b]).float().mean().item() for a, b in pairs) / len(pairs)


def domain_losses(grams: Tensor, domains: list[str]) -> Tensor:
    """Losses [I, L] of the mix that is best for the other pictures of a domain; grams [I, L, K, K].

    A picture that is alone in its domain gets the mix that is best for all others.
    """
    losses = []
    for picture, domain in enumerate(domains):
        alike = [i for i, other in enumerate(domains) if i != picture and other == domain]
        others = alike or [i for i in range(len(domains)) if i != picture] or [picture]
        weights = simplex_minimum(grams[others].mean((0, 1)))
        losses.append(quadratic(grams[picture], weights))
    return torch.stack(losses)


def interval(routed: Tensor, fixed: Tensor, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of 1 - sum(routed) / sum(fixed) over pictures; losses [I] of the same pictures."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(routed), (RESAMPLES, len(routed)), generator=generator)
    gains = 1 - routed[drawn].sum(1) / fixed[drawn].sum(1)
    low, high = torch.quantile(gains, torch.tensor([0.025, 0.975], dtype=gains.dtype)).tolist()
    return low, high
