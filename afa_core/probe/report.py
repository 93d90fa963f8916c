"""What the probe found, in numbers and in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .measure import (
    Cell,
    diversity,
    domain_losses,
    interval,
    quadratic,
    simplex_minimum,
    sum_one_minimum,
)
from .weights import level_weights

SAME_COSINE = 0.9999
SAME_DISTANCE = 0.01
"""Two experts are the same model where their weights point the same way and their predictions differ by less than
this share of their squared error: then no mixture of the two can gain more than a quarter of it."""
ALIKE = 0.995
LITTLE, ENOUGH = 0.01, 0.03
CONSISTENT = 0.1
ROUTERS = {
    "domain": "mix by sub-folder",
    "picture": "mix by picture",
    "pick": "best expert at every place",
    "mix": "mix at every place",
}
VERDICTS = ("the same model", "not worth it", "weak", "worth it")


@dataclass
class Probe:
    """Everything measured: cells[picture][level]; cosine [K, K]: of the experts' weights.

    left_out: pictures that were not measured, and why
    """

    experts: list[str]
    domains: list[str]
    levels: tuple[int, ...]
    draws: int
    cosine: Tensor
    cells: list[list[Cell]]
    seed: int = 0
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def grams(self) -> Tensor:
        """[I, L, K, K]."""
        return self.of("gram")

    def of(self, name: str) -> Tensor:
        """One field of every cell, [I, L, ...] in float64."""
        rows = [[torch.as_tensor(getattr(cell, name), dtype=torch.float64) for cell in row] for row in self.cells]
        return torch.stack([torch.stack(row) for row in rows])


def best_fixed_mix(grams: Tensor) -> Tensor:
    """Weights [K] of the mix with the least loss over all pictures and levels; grams [I, L, K, K]."""
    return simplex_minimum(grams.mean((0, 1)))


def report_of(probe: Probe) -> dict[str, Any]:
    """The whole report, as JSON can hold it."""
    grams = probe.grams
    gram = grams.mean((0, 1))
    fixed = best_fixed_mix(grams)
    routed = _routed(probe, grams)
    baseline = quadratic(grams, fixed)
    gains = {name: _gain(losses, baseline, probe.seed) for name, losses in routed.items()}
    best = max(gains, key=lambda name: gains[name]["gain"])
    losses = gram.diagonal()
    correlation = diversity(gram)
    # At a level; chance: winners there, whatever the place and picture.
    wins, agreement = probe.of("wins").mean(0), probe.of("agreement").mean(0)
    chance = wins.square().sum(-1)
    sum_one = sum_one_minimum(gram)
    report = {
        "experts": probe.experts,
        "pictures": len(probe.cells),
        "noises": probe.draws,
        "losses": dict(zip(probe.experts, losses.tolist(), strict=True)),
        "best_single": {"expert": probe.experts[int(losses.argmin())], "loss": losses.min().item()},
        "fixed_mix": {
            "weights": fixed.tolist(),
            "loss": baseline.mean().item(),
            "gain": (1 - baseline.mean() / losses.min()).item(),
        },
        "sum_to_one": {"weights": sum_one.tolist(), "loss": quadratic(gram, sum_one).item()},
        "routers": gains,
        "gain": {"router": best, **gains[best]},
        "diversity": _off_diagonal(correlation).mean().item(),
        "correlation": correlation.tolist(),
        "weight_cosine": probe.cosine.tolist(),
        "same": _same(probe, gram),
        "wins": wins.mean(0).tolist(),
        "agreement": agreement.mean().item(),
        "chance": chance.mean().item(),
        "kappa": _kappa(agreement.mean(), chance.mean()),
        "level_weights": {"levels": [level / 1000 for level in probe.levels], **level_weights(grams, probe.seed)},
        "by_level": _by_level(probe, grams, routed, baseline),
        "by_domain": _by_domain(probe, grams),
    }
    report["verdict"] = _verdict(report)
    report["sentence"] = _sentence(report)
    return report


def _routed(probe: Probe, grams: Tensor) -> dict[str, Tensor]:
    """Losses [I, L] of every router.

    domain:  the best mix for the other pictures of the same sub-folder, which may follow from the prompt
    picture: the best mix for this picture under other noise
    pick:    at every place the expert that was best there under other noise
    mix:     at every place the more of an expert the better it was there under other noise
    """
    mixes = probe.of("mix")
    sharpness = int(mixes[..., 1:].mean((0, 1)).argmin()) + 1
    routed = {
        "domain": domain_losses(grams, probe.domains),
        "picture": probe.of("picture"),
        "pick": probe.of("pick"),
        "mix": mixes[..., sharpness],
    }
    if len(set(probe.domains)) < 2:
        del routed["domain"]
    return routed


def _gain(routed: Tensor, baseline: Tensor, seed: int) -> dict[str, float]:
    low, high = interval(routed.mean(1), baseline.mean(1), seed)
    return {
        "loss": routed.mean().item(),
        "gain": (1 - routed.mean() / baseline.mean()).item(),
        "low": low,
        "high": high,
    }


def _kappa(agreement: Tensor, chance: Tensor) -> float:
    return ((agreement - chance) / (1 - chance).clamp_min(1e-9)).item()


def _same(probe: Probe, gram: Tensor) -> list[list[int]]:
    """Pairs of experts that are one model."""
    count = len(probe.experts)
    distance = gram.diagonal()[:, None] + gram.diagonal() - 2 * gram
    return [
        [i, j]
        for i in range(count)
        for j in range(i + 1, count)
        if probe.cosine[i, j] >= SAME_COSINE and distance[i, j] <= SAME_DISTANCE * min(gram[i, i], gram[j, j])
    ]


def _by_level(probe: Probe, grams: Tensor, routed: dict[str, Tensor], baseline: Tensor) -> list[dict[str, Any]]:
    wins, agreement = probe.of("wins").mean(0), probe.of("agreement").mean(0)
    rows = []
    for number, level in enumerate(probe.levels):
        gram = grams[:, number].mean(0)
        rows.append(
            {
                "timestep": level,
                "losses": gram.diagonal().tolist(),
                "fixed_mix": baseline[:, number].mean().item(),
                "fixed_mix_gain": (1 - baseline[:, number].mean() / gram.diagonal().min()).item(),
                "best_mix_here": simplex_minimum(gram).tolist(),
                "gains": {
                    name: (1 - losses[:, number].mean() / baseline[:, number].mean()).item()
                    for name, losses in routed.items()
                },
                "diversity": _off_diagonal(diversity(gram)).mean().item(),
                "wins": wins[number].tolist(),
                "kappa": _kappa(agreement[number], wins[number].square().sum()),
            }
        )
    return rows


def _by_domain(probe: Probe, grams: Tensor) -> list[dict[str, Any]]:
    rows = []
    for domain in sorted(set(probe.domains)):
        gram = grams[[i for i, other in enumerate(probe.domains) if other == domain]].mean((0, 1))
        losses = gram.diagonal()
        rows.append(
            {
                "domain": domain,
                "pictures": probe.domains.count(domain),
                "losses": losses.tolist(),
                "best": probe.experts[int(losses.argmin())],
                "best_mix_here": simplex_minimum(gram).tolist(),
            }
        )
    return rows


def _verdict(report: dict[str, Any]) -> str:
    gain = report["gain"]
    if report["same"]:
        return VERDICTS[0]
    if gain["low"] <= LITTLE or report["diversity"] > ALIKE:
        return VERDICTS[1]
    return VERDICTS[3] if gain["gain"] > ENOUGH and report["kappa"] > CONSISTENT else VERDICTS[2]


def _sentence(report: dict[str, Any]) -> str:
    names, gain = report["experts"], report["gain"]
    promise = (
        f"of the routers measured the {ROUTERS[gain['router']]} promises most, {_percent(gain['gain'])} less loss than the best "
        f"fixed mix (95 % interval {_percent(gain['low'])} to {_percent(gain['high'])})"
    )
    instead = _instead(names, report["fixed_mix"])
    if report["verdict"] == VERDICTS[0]:
        copies = " and ".join(f"{names[j]} is a copy of {names[i]}" for i, j in _copies(report["same"]))
        return f"The same model: {copies}; an ensemble gains nothing from it, so take it away."
    if report["verdict"] == VERDICTS[1]:
        return f"Not worth it: {promise}; {instead}."
    if report["verdict"] == VERDICTS[2]:
        return f"Weak: {promise}; {instead}, so try the merge first."
    return (
        f"Worth it: {promise}, and the experts' strengths are the same under fresh noise (kappa {report['kappa']:.2f})."
    )


def _instead(names: list[str], fixed: dict[str, Any]) -> str:
    """What does as well without an aggregator."""
    weight, best = max(zip(fixed["weights"], names, strict=True))
    if weight > 0.95:
        return f"{best} alone is as good as any merge"
    mix = ", ".join(f"{weight:.2f} {name}" for weight, name in zip(fixed["weights"], names, strict=True))
    return f"a merge of {mix} costs nothing and gains {_percent(fixed['gain'])} over the best of them"


def _copies(pairs: list[list[int]]) -> list[list[int]]:
    """Every expert that is a copy once, with the first expert it is a copy of."""
    first: dict[int, int] = {}
    for i, j in pairs:
        first.setdefault(j, first.get(i, i))
    return [[i, j] for j, i in first.items()]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _off_diagonal(matrix: Tensor) -> Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]
