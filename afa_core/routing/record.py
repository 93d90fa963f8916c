"""What the fusion decided: a record of every expert's share by step, fusion point and position."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fusion.points import FusionPoint

MAP_SIZE = 32
"""Maps are kept at this side at most: enough to look at, light to keep and to send."""


@dataclass
class Evaluation:
    """One evaluation of the ensemble: a sampling step, or the part of one that was batched together.

    guided: for every sample of the batch, whether it is the prompt's (True) or the negative prompt's
    shares: mean share [B, N] by index of the fusion point, float32
    maps:   shares by position [B, N, h, w] by index of the fusion point, float16; only where they vary
    """

    sigma: float
    guided: list[bool]
    shares: dict[int, Tensor] = field(default_factory=dict)
    maps: dict[int, Tensor] = field(default_factory=dict)

    def observe(self, point: FusionPoint, shares: Tensor) -> None:
        """Takes what a fusion decided. It stays on its device until the step has ended: no block waits for a copy."""
        shares = shares.detach()
        self.shares[point.index] = shares.float().mean((2, 3)).expand(len(self.guided), -1)
        height, width = (min(side, MAP_SIZE) for side in shares.shape[-2:])
        if (height, width) != (1, 1):
            self.maps[point.index] = F.adaptive_avg_pool2d(shares, (height, width)).half()

    def to_cpu(self) -> None:
        self.shares = {i: t.cpu() for i, t in self.shares.items()}
        self.maps = {i: t.cpu() for i, t in self.maps.items()}


StepListener = Callable[["RoutingRun", int, list[Evaluation]], None]
"""Called with the run, the number of a step and its evaluations, once it has ended. Its errors are logged, no more: a
view is not worth a render."""


@dataclass
class RoutingRun:
    """One run of a sampler over an ensemble: its evaluations in order, and the latent it ended with."""

    experts: list[str]
    points: list[FusionPoint]
    on_step: StepListener | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    latent: Tensor | None = None
    steps_reported: int = 0

    def evaluate(self, sigma: float, guided: list[bool]) -> Callable[[FusionPoint, Tensor], None]:
        """Opens an evaluation; gives what its fusions report to."""
        if self.evaluations and self.evaluations[-1].sigma != sigma:
            self._report_step()
        self.evaluations.append(Evaluation(sigma, guided))
        return self.evaluations[-1].observe

    def _report_step(self) -> None:
        """Hands the listener the step that has just ended: the last evaluations at one noise level."""
        if self.on_step is None or not self.evaluations:
            return
        sigma = self.evaluations[-1].sigma
        step = list(takewhile(lambda e: e.sigma == sigma, reversed(self.evaluations)))[::-1]
        try:
            self.on_step(self, self.steps_reported, step)
        except Exception as error:  # as text: a log that kept the error would keep the tensors of its frames
            logging.warning(f"AFA: the routing viewer is not updated any more during this run: {error!r}")
            self.on_step = None
        self.steps_reported += 1

    def finish(self, latent: Tensor | None) -> None:
        self._report_step()
        for evaluation in self.evaluations:
            evaluation.to_cpu()
        self.latent = None if latent is None else latent.cpu()

    @cached_property
    def steps(self) -> list[tuple[float, list[Evaluation]]]:
        """(sigma, evaluations) of each step: consecutive evaluations at one noise level belong together."""
        steps: list[tuple[float, list[Evaluation]]] = []
        for evaluation in self.evaluations:
            if not steps or steps[-1][0] != evaluation.sigma:
                steps.append((evaluation.sigma, []))
            steps[-1][1].append(evaluation)
        return steps

    def shares_by_step(self, guided: bool = True) -> Tensor:
        """Mean share [steps, N] over the fusion points and the batch."""
        return torch.stack([self._mean(evaluations, None, guided) for _, evaluations in self.steps])

    def shares_by_point(self, guided: bool = True) -> Tensor:
        """Mean share [points that fuse, N] over the steps and the batch."""
        everything = self.evaluations
        return torch.stack([self._mean(everything, i, guided) for i in self.fused_points])

    @property
    def fused_points(self) -> list[int]:
        return sorted({i for evaluation in self.evaluations for i in evaluation.shares})

    def mean_map(self, guided: bool = True) -> Tensor:
        """Share by position [N, h, w], averaged over steps, points and batch, at the finest size kept."""
        maps = [
            tensor[_chosen(evaluation, guided)].float()
            for evaluation in self.evaluations
            for tensor in evaluation.maps.values()
        ]
        maps = [tensor for tensor in maps if len(tensor)]
        if not maps:
            return self.shares_by_point(guided).mean(0)[:, None, None]
        size = max((tuple(tensor.shape[-2:]) for tensor in maps), key=lambda hw: hw[0] * hw[1])
        return torch.stack([F.interpolate(m, size, mode="bilinear").mean(0) for m in maps]).mean(0)

    def summary(self) -> dict[str, Any]:
        """The shares as JSON: by step and by fusion point, the prompt's and the negative prompt's apart."""
        sides = {"prompt": True, "negative": False}
        present = {name: side for name, side in sides.items() if any(side in e.guided for e in self.evaluations)}
        return {
            "experts": self.experts,
            "sigmas": [sigma for sigma, _ in self.steps],
            "points": [self.points[i].name for i in self.fused_points],
            **{
                name: {
                    "mean": self.shares_by_point(side).mean(0).tolist(),
                    "by_step": self.shares_by_step(side).tolist(),
                    "by_point": self.shares_by_point(side).tolist(),
                }
                for name, side in present.items()
            },
        }

    def _mean(self, evaluations: list[Evaluation], point: int | None, guided: bool) -> Tensor:
        """Mean share [N] at one fusion point, or over all; nothing recorded counts as NaN."""
        rows = [
            shares[_chosen(evaluation, guided)]
            for evaluation in evaluations
            for i, shares in evaluation.shares.items()
            if point is None or i == point
        ]
        rows = [row for row in rows if len(row)]
        return torch.cat(rows).mean(0) if rows else torch.full((len(self.experts),), float("nan"))


class RoutingRecord:
    """The runs of one ensemble node, the newest last. Only a few are kept: a graph rarely samples oftener."""

    def __init__(self, kept: int = 4):
        self.runs: deque[RoutingRun] = deque(maxlen=kept)
        self.on_step: StepListener | None = None

    def begin(self, experts: list[str], points: list[FusionPoint]) -> RoutingRun:
        run = RoutingRun(experts, points, self.on_step)
        self.runs.append(run)
        return run

    def run_of(self, latent: Tensor) -> RoutingRun | None:
        """The run that ended with this latent, or else the newest: a graph may sample twice with one ensemble."""
        for run in reversed(self.runs):
            if run.latent is not None and run.latent.shape == latent.shape and torch.equal(run.latent, latent.cpu()):
                return run
        return self.runs[-1] if self.runs else None


def _chosen(evaluation: Evaluation, guided: bool) -> list[int]:
    return [i for i, side in enumerate(evaluation.guided) if side == guided]
