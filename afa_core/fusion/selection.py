"""Selective ensembling: experts that a step can do without are not evaluated for it.

Fused features take the place of every expert's own at every fusion point. So an expert that is left out of
one block comes back at the next as if it had never been away, and what it costs is saved block by block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .fusion import Feature, Fusion, FusionError, FusionState, fuse, logits_of
from .points import FusionPoint

LeftOut = dict[int, frozenset[int]]
"""By number of the expert, the indices of the fusion points whose block it does not compute."""


@dataclass(frozen=True)
class Selection:
    """What an artist asks for.

    skip_below:   an expert with a smaller mean share is left out of a block; 0 leaves nobody out
    decide_every: every so many steps all experts are evaluated and the aggregator decides anew; the steps
                  between keep its maps, and leave out by them. With 1 it decides at every step, and `table`
                  tells whom to leave out
    table:        mean shares [levels, fusion points, N] that training measured, the least noise first
    """

    skip_below: float = 0.0
    decide_every: int = 1
    table: Tensor | None = None

    def __post_init__(self) -> None:
        if self.skip_below and self.decide_every == 1 and self.table is None:
            raise FusionError(
                "The aggregator does not say whom it followed in training, and skip_below goes by that: set decide_every "
                "to 2 or more, so that each picture tells, or train the aggregator again."
            )

    @property
    def is_full(self) -> bool:
        """Whether every expert is evaluated at every step."""
        return not self.skip_below and self.decide_every == 1


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
    except (AttributeError, StopIteration, TypeError, ValueError, OverflowError, RuntimeError):  # a file of anyone's
        return None
    if shares.ndim != 3 or shares.shape[1:] != (len(measured), experts) or not shares.isfinite().all():
        return None
    shares[shares.sum(2) == 0] = 1  # a level that no held-out picture fell on leaves nobody out
    return shares[:, rows]


def left_out(shares: Tensor, skip_below: float) -> LeftOut:
    """By mean shares [fusion points, N]. Whoever has the largest share stays."""
    gone = shares < skip_below
    gone[torch.arange(len(shares)), shares.argmax(1)] = False
    return {expert: frozenset(row.nonzero().flatten().tolist()) for expert, row in enumerate(gone.T.cpu())}


@dataclass
class KeptRouting:
    """Fuses by the maps of an earlier evaluation, in place of the aggregator.

    maps: shares [B, N, H, W] by index of the fusion point
    """

    maps: dict[int, Tensor] = field(default_factory=dict)
    gone: LeftOut | None = None

    def keep(self, point: FusionPoint, shares: Tensor) -> None:
        self.maps[point.index] = shares

    def left_out(self, points: int, skip_below: float) -> LeftOut:
        """Found once: on a GPU this waits for the queue."""
        if self.gone is None:
            fused = [min(index for index in self.maps if index >= i) for i in range(points)]
            self.gone = left_out(torch.stack([self.maps[i].mean((0, 2, 3)) for i in fused]), skip_below)
        return self.gone

    def __call__(self, point: FusionPoint, features: Sequence[Feature], state: FusionState) -> Sequence[Feature]:
        if point.index not in self.maps:
            return features
        return fuse(point, features, logits_of(self.maps[point.index]), state)


@dataclass(frozen=True)
class Choice:
    """How one evaluation is done; `keep` is told of the shares, as FusionState.observe is."""

    fusion: Fusion
    left_out: LeftOut = field(default_factory=dict)
    keep: Callable[[FusionPoint, Tensor], None] | None = None


class Selector:
    """Chooses, evaluation by evaluation of one sampling run."""

    def __init__(self, selection: Selection, fusion: Fusion, points: int):
        self.selection, self.fusion, self.points = selection, fusion, points
        self.steps: dict[float, int] = {}
        self.calls: Counter[Hashable] = Counter()
        self.kept: dict[Hashable, KeptRouting] = {}

    def choose(self, noise_level: float, fraction: float, batch: Hashable) -> Choice:
        """fraction: the noise level in 0..1; batch: which conditionings are evaluated together."""
        table = self.selection.table
        if self.selection.decide_every == 1 and table is not None:
            level = min(max(int(fraction * len(table)), 0), len(table) - 1)
            return Choice(self.fusion, left_out(table[level], self.selection.skip_below))
        step = self.steps.setdefault(noise_level, len(self.steps))
        key = batch, self.calls[step, batch]
        self.calls[step, batch] += 1
        if step % self.selection.decide_every and key in self.kept:
            kept = self.kept[key]
            return Choice(kept, kept.left_out(self.points, self.selection.skip_below))
        self.kept[key] = KeptRouting()
        return Choice(self.fusion, keep=self.kept[key].keep)
