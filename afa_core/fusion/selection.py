"""Selective ensembling: experts that a step can do without are not evaluated for it.

Fused features take the place of every expert's own at every fusion point. So an expert that is left out of
one block goes on from the fused feature at the next, as every expert does, and what it costs is saved block by
block. Under an identity bias (identity_bias.py) it would miss its own features there, so it is left out of whole
evaluations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..host_copy import HostCopy
from .fusion import Feature, Fusion, FusionError, FusionState, fuse, logits_of
from .points import FusionPoint
from .sabw_fusion import SABWFusion

LeftOut = dict[int, frozenset[int]]
"""By number of the expert, the indices of the fusion points whose block it does not compute."""


@dataclass(frozen=True)
class Selection:
    """The node's settings of which experts are left out.

    skip_below:   an expert with a smaller mean share is left out of a block; 0 leaves no expert out
    decide_every: every so many steps all experts are evaluated and the aggregator decides anew; the steps
                  between keep its maps, and leave out by them. With 1 it decides at every step, and `table`
                  shows which to leave out
    table:        mean shares [levels, fusion points, N] that training measured, the least noise first
    whole:        leaves an expert out of whole evaluations, by its share of the prediction
    """

    skip_below: float = 0.0
    decide_every: int = 1
    table: Tensor | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        if self.skip_below and self.decide_every == 1 and self.table is None:
            raise FusionError(
                "The aggregator has no record of its weights in training, and skip_below goes by that: set decide_every to 2 or "
                "more, so that each picture shows them, or train the aggregator again."
            )

    @property
    def is_full(self) -> bool:
        """Whether every expert is evaluated at every step."""
        return not self.skip_below and self.decide_every == 1

    def left_out(self, shares: Tensor) -> LeftOut:
        """By mean shares [fusion points, N]."""
        return left_out(shares[-1:].expand_as(shares) if self.whole else shares, self.skip_below)


def routing_table(routing: dict[str, Any], points: list[FusionPoint], experts: int) -> Tensor | None:
    """The table of a file (`routing` of the aggregator file) as mean shares [levels, fusion points, N].

    None where the file has none for these points. Points without an aggregator have the shares of the next
    one that has: what they compute is of use there alone.
    """
    names = [point.name for point in points]
    measured: Any = routing.get("points")
    try:
        shares = torch.tensor(routing.get("shares"), dtype=torch.float32)
        rows = [measured.index(next(n for n in names[index:] if n in measured)) for index in range(len(names))]
    except (AttributeError, StopIteration, TypeError, ValueError, OverflowError, RuntimeError):  # a file of unknown origin
        return None
    if shares.ndim != 3 or shares.shape[1:] != (len(measured), experts) or not shares.isfinite().all():
        return None
    shares[shares.sum(2) == 0] = 1  # a level that no held-out picture fell on leaves no expert out
    return shares[:, rows]


def left_out(shares: Tensor, skip_below: float) -> LeftOut:
    """By mean shares [fusion points, N]. The expert with the largest share stays."""
    rows = shares.tolist()
    stays = [row.index(max(row)) for row in rows]
    return {
        expert: frozenset(i for i, row in enumerate(rows) if row[expert] < skip_below and stays[i] != expert)
        for expert in range(shares.shape[1])
    }


@dataclass
class KeptRouting:
    """Fuses by the maps of an earlier evaluation, in place of the aggregator.

    maps: shares [B, N, H, W] by index of the fusion point
    bias: the identity bias of a fusion point, by its index
    """

    points: int
    selection: Selection
    bias: Callable[[int], Tensor | None] = lambda index: None
    maps: dict[int, Tensor] = field(default_factory=dict)
    logits: dict[int, Tensor] = field(default_factory=dict)
    means: HostCopy | None = None

    def keep(self, point: FusionPoint, shares: Tensor) -> None:
        self.maps[point.index] = shares

    def end(self) -> None:
        """All maps are there: their means go to the CPU, where the next step reads which experts are left out."""
        self.logits = {index: logits_of(shares) for index, shares in self.maps.items()}
        if self.selection.skip_below:
            means = {index: shares.mean((0, 2, 3)) for index, shares in self.maps.items()}
            fused = [min(index for index in means if index >= i) for i in range(self.points)]
            self.means = HostCopy(torch.stack([means[i] for i in fused]))

    @cached_property
    def left_out(self) -> LeftOut:
        return self.selection.left_out(self.means.wait()) if self.means else {}

    def __call__(self, point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        if point.index not in self.logits:
            return features
        size = next(feature for feature in features if feature is not None).shape[2:]
        return fuse(point, features, self._logits(point.index, size), state, self.bias(point.index))

    def _logits(self, index: int, size: torch.Size) -> Tensor:
        """At the size of the features: a node such as Kohya Deep Shrink changes that in the middle of sampling."""
        logits = self.logits[index]
        if logits.shape[2:] in (size, (1, 1)):
            return logits
        return logits_of(F.interpolate(self.maps[index].float(), size, mode="bilinear"))


@dataclass(frozen=True)
class Choice:
    """How one evaluation is done; `keep` takes its maps, and is then used in place of the aggregator."""

    fusion: Fusion
    left_out: LeftOut = field(default_factory=dict)
    keep: KeptRouting | None = None


class Selector:
    """Chooses, evaluation by evaluation of one sampling run."""

    def __init__(self, selection: Selection, fusion: Fusion, points: int):
        self.selection, self.fusion, self.points = selection, fusion, points
        self.calls: Counter[Hashable] = Counter()
        self.kept: dict[Hashable, KeptRouting] = {}

    @cached_property
    def by_level(self) -> list[LeftOut]:
        """By the table, from the least noise on."""
        table = self.selection.table
        return [] if table is None else [self.selection.left_out(level) for level in table]

    def choose(self, step: int, noise_level: Callable[[], float], batch: Hashable) -> Choice:
        """noise_level: gives it as a fraction of all; batch: which conditionings are evaluated together."""
        if self.selection.is_full:
            return Choice(self.fusion)
        if self.selection.decide_every == 1:
            level = int(noise_level() * len(self.by_level))
            return Choice(self.fusion, self.by_level[min(max(level, 0), len(self.by_level) - 1)])
        key = batch, self.calls[step, batch]
        self.calls[step, batch] += 1
        if (step - 1) % self.selection.decide_every and key in self.kept:
            return Choice(self.kept[key], self.kept[key].left_out)
        aggregator = cast(SABWFusion, self.fusion).aggregator  # no other fusion decides anything
        self.kept[key] = KeptRouting(self.points, self.selection, aggregator.identity_bias)
        return Choice(self.fusion, keep=self.kept[key])
