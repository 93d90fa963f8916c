"""What a training needs of that which it trains. The loop, the state, resume and the report use nothing else of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .data.dataset import Batch
from .draw import Draw

BEST_SINGLE = "best single expert"
"""Its loss is shown beside every training's."""


class Data(Protocol):
    """What is trained on: batches by their number from 0 on, and held-out ones."""

    @property
    def digest(self) -> str: ...

    def train_batch(self, index: int) -> Batch: ...

    def held_out_batches(self, batch_size: int) -> Iterable[Batch]: ...


class Task(Protocol):
    """One kind of training: an aggregator (tasks/aggregator.py), a LoRA that predicts what an ensemble does (tasks/distil.py).

    name:          of what is trained, as in "this aggregator"
    chosen_by:     the value of `evaluate` that decides which weights are the best, and whether the loss still falls
    curves_title:  what the values of `curves` are
    goal:          the baseline that is aimed at, and no rival
    module:        the trained weights, in float32 on `device`
    compute_dtype: of the networks that a loss passes through; with float16 the loss is scaled
    """

    name: str
    chosen_by: str
    curves_title: str
    goal: str | None
    device: torch.device
    compute_dtype: torch.dtype

    @property
    def module(self) -> nn.Module: ...

    @property
    def watched(self) -> Sequence[Tensor]:
        """Scalars on `device` that a loss depends on as numbers: they are read once a step, with the losses."""
        ...

    def identity(self) -> dict[str, Any]:
        """What a resumed training must have in common with the earlier one, beside settings and data."""
        ...

    def loss(self, batch: Batch, draw: Draw, watched: Sequence[float]) -> dict[str, Tensor]:
        """Scalars whose sum is minimised; the first is the one that is shown. watched: as it was read last."""
        ...

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """`held_out`: the loss [B] of every item; further values [B] are averaged over the items as well, and whatever
        has another shape over the batches."""
        ...

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """Losses [B] of what needs no training, by name. Raises NotFinite where one is NaN."""
        ...

    def find_not_finite(self, batch: Batch, draw: Draw, when: str) -> None:
        """After a loss that is not finite: raises NotFinite with the name of the network that produced it, if one did."""
        ...

    def measure(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """What is measured once, at the end, on the held-out items; JSON."""
        ...

    def export(
        self, path: Path, weights: Mapping[str, Tensor], history: dict[str, Any], measured: dict[str, Any]
    ) -> Any:
        """Writes what was trained to `path`, whole or not at all, and gives it back.

        weights: a state dict of the module; history: how they came about; measured: {} before the end.
        """
        ...

    def rivals(self, baselines: dict[str, float]) -> dict[str, float]:
        """The losses without training that are shown beside the held-out loss, three at most, by name."""
        ...

    def curves(self, evaluation: dict[str, Any], baselines: dict[str, float]) -> dict[str, float]:
        """Further values of one evaluation, for the report and the second plot."""
        ...
