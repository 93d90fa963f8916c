"""What the fusion decided: a record of every expert's share by step, fusion point and position."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any
from uuid import uuid4

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fusion.points import FusionPoint
from ..host_copy import HostCopy

SIDES = {"prompt": True, "negative": False}
"""Whether guided, by name."""
MAP_SIZE = 32
"""Maps are kept at this side at most: enough to look at, light to keep and to send."""


def averaged_to(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps [B, N, H, W] as adaptive_avg_pool2d makes them [B, N, height, width].

    Apple's devices have that for sizes that divide alone: there it is a product with an average of rows and one of columns.
    """
    if maps.device.type != "mps":
        return F.adaptive_avg_pool2d(maps, (height, width))
    rows, columns = (averages(*sizes, maps.device) for sizes in zip(maps.shape[2:], (height, width), strict=True))
    return rows @ maps.float() @ columns.T


@lru_cache(maxsize=32)
def averages(size: int, cells: int, device: torch.device) -> Tensor:
    """[cells, size]: what of a line each cell of it averages."""
    with torch.inference_mode(False):
        return F.adaptive_avg_pool1d(torch.eye(size), cells).T.contiguous().to(device)


class Evaluation:
    """One evaluation of the ensemble: a sampling step, or the part of one that was batched together.

    Shares stay on their device while it runs. When it has ended they are pooled together, and go to the CPU in two
    copies that nothing waits for; what is read of it later waits until they are there.

    step:   number of the sampler's step
    guided: for every sample of the batch, whether it is the prompt's (True) or the negative prompt's
    """

    def __init__(self, step: int, sigma: Tensor, guided: list[bool]):
        self.step = step
        self.guided = guided
        self._sigma = sigma.detach()
        self._seen: dict[int, Tensor] = {}
        self._layout: list[tuple[list[int], torch.Size]] = []
        self._copies: list[HostCopy] = []
        self.has_ended = False

    def observe(self, point: FusionPoint, shares: Tensor) -> None:
        """Takes what a fusion decided: shares [B, N, H, W]."""
        self._seen[point.index] = shares.detach()

    def end(self) -> None:
        """Pools the shares of all points of one size at once, and starts their copies to the CPU."""
        numbers, maps = [self._sigma.float().flatten()[:1]], []
        for points in by_size(self._seen):
            stacked = torch.stack([self._seen[i] for i in points])  # [points, B, N, H, W]
            means = stacked.mean((3, 4), dtype=torch.float32).expand(-1, len(self.guided), -1)
            numbers.append(means.flatten())
            height, width = (min(side, MAP_SIZE) for side in stacked.shape[3:])
            pooled = averaged_to(stacked.flatten(0, 1), height, width).unflatten(0, stacked.shape[:2]).half()
            maps.append(pooled.flatten())
            self._layout.append((points, pooled.shape))
        self._copies = [HostCopy(torch.cat(parts)) for parts in (numbers, maps) if parts]
        self._seen, self._sigma, self.has_ended = {}, torch.empty(0), True

    @property
    def has_arrived(self) -> bool:
        return self.has_ended and all(copy.has_arrived for copy in self._copies)

    @cached_property
    def _numbers(self) -> Tensor:
        """Sigma, and then the mean shares; a clone, as what arrives lies in pinned memory, which is scarce."""
        return self._copies[0].wait().clone()

    @property
    def sigma(self) -> float:
        return self._numbers[0].item()

    @cached_property
    def shares(self) -> dict[int, Tensor]:
        """Mean share [B, N] by index of the fusion point, float32."""
        rest, found = self._numbers[1:], {}
        for points, shape in self._layout:
            size = (len(points), len(self.guided), shape[2])
            means, rest = rest[: math.prod(size)], rest[math.prod(size) :]
            found |= zip(points, means.view(size), strict=True)
        return {point: found[point] for point in sorted(found)}

    @cached_property
    def maps(self) -> dict[int, Tensor]:
        """Shares by position [B, N, h, w] by index of the fusion point, float16; only where they vary."""
        parts = self._copies[-1].wait().clone().split([shape.numel() for _, shape in self._layout] or [1])
        found: dict[int, Tensor] = {}
        for (points, shape), part in zip(self._layout, parts, strict=False):
            if shape[3:].numel() > 1:
                found |= zip(points, part.view(shape), strict=True)
        return found

    def settle(self) -> None:
        """Waits for the copies, and frees them."""
        _ = self._numbers, self.maps
        self._copies = []


def by_size(tensors: dict[int, Tensor]) -> list[list[int]]:
    """The keys, those of tensors of one shape together."""
    groups: dict[torch.Size, list[int]] = {}
    for key, tensor in tensors.items():
        groups.setdefault(tensor.shape, []).append(key)
    return list(groups.values())


StepListener = Callable[["RoutingRun", int, list[Evaluation]], None]
"""Called with the run, the number of a step among the fused ones, as in `RoutingRun.steps`, and its evaluations, once
it has ended. Its errors are only logged, so that they do not end a sampling run."""


@dataclass
class RoutingRun:
    """One run of a sampler over an ensemble: its evaluations in order, and the latent it ended with."""

    experts: list[str]
    points: list[FusionPoint]
    on_step: StepListener | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    latent: Tensor | None = None
    step: int = 0
    steps_reported: int = 0
    id: str = field(default_factory=lambda: uuid4().hex)

    def next_step(self) -> None:
        """The sampler goes on: hands the listener the steps whose shares have arrived by now."""
        self.step += 1
        while self.steps_reported < self.step - 1 and self._report_step():
            pass

    def evaluate(self, sigma: Tensor, guided: list[bool]) -> Evaluation:
        """Opens an evaluation at this sigma [B], whose fusions report to `observe` until it ends."""
        evaluation = Evaluation(self.step, sigma, guided)
        self.evaluations.append(evaluation)  # several GPUs have a thread each
        return evaluation

    def _report_step(self, wait: bool = False) -> bool:
        """Hands the listener the next step, if it has arrived."""
        evaluations = [e for e in self.evaluations if e.step == self.steps_reported + 1]
        if not wait and not all(evaluation.has_arrived for evaluation in evaluations):
            return False
        self.steps_reported += 1
        try:
            if self.on_step is not None and evaluations:
                number = len({e.step for e in self.evaluations if e.step < self.steps_reported})
                self.on_step(self, number, evaluations)
        except Exception as error:  # as text: a log that kept the error would keep the tensors of its frames
            logging.warning(f"AFA: the routing viewer is not updated any more during this run: {error!r}")
            self.on_step = None
        return True

    def finish(self, latent: Tensor | None) -> None:
        """Waits for all copies, and hands the listener the steps that are left. latent: None where sampling has failed."""
        self.evaluations = [evaluation for evaluation in self.evaluations if evaluation.has_ended]
        for evaluation in reversed(self.evaluations):  # with the last one, all have arrived
            evaluation.settle()
        while self.steps_reported < self.step:
            self._report_step(wait=True)
        self.latent = None if latent is None else latent.cpu()

    @cached_property
    def steps(self) -> list[tuple[float, list[Evaluation]]]:
        """(sigma, evaluations) of each of the sampler's steps."""
        grouped = groupby(self.evaluations, key=lambda evaluation: evaluation.step)
        steps = [list(evaluations) for _, evaluations in grouped]
        return [(evaluations[0].sigma, evaluations) for evaluations in steps]

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

    def mean_map(self) -> Tensor:
        """The prompt's share by position [N, h, w] in the first picture, averaged over steps and points, at the finest size kept."""
        maps = [
            tensor[rows[:1]].float()
            for evaluation in self.evaluations
            if (rows := chosen(evaluation, True))
            for tensor in evaluation.maps.values()
        ]
        if not maps:
            return self.shares_by_point().mean(0)[:, None, None]
        size = max((tuple(tensor.shape[-2:]) for tensor in maps), key=lambda hw: hw[0] * hw[1])
        return torch.cat([F.interpolate(m, size, mode="bilinear") for m in maps]).mean(0)

    def summary(self) -> dict[str, Any]:
        """The shares as JSON: by step and by fusion point, the prompt's and the negative prompt's apart.

        None where a step or a point has nothing of a prompt: its conditioning may be for other steps alone.
        """
        present = {name: side for name, side in SIDES.items() if any(side in e.guided for e in self.evaluations)}
        return {
            "experts": self.experts,
            "sigmas": [sigma for sigma, _ in self.steps],
            "points": [self.points[i].name for i in self.fused_points],
            **{name: self._summary_of(side) for name, side in present.items()},
        }

    def _summary_of(self, guided: bool) -> dict[str, Any]:
        by_point = self.shares_by_point(guided)
        return {
            "mean": by_point.nanmean(0).tolist(),
            "by_step": _rows(self.shares_by_step(guided)),
            "by_point": _rows(by_point),
        }

    def _mean(self, evaluations: list[Evaluation], point: int | None, guided: bool) -> Tensor:
        """Mean share [N] at one fusion point, or over all; nothing recorded counts as NaN."""
        rows = [
            shares[chosen(evaluation, guided)]
            for evaluation in evaluations
            for i, shares in evaluation.shares.items()
            if point is None or i == point
        ]
        rows = [row for row in rows if len(row)]
        return torch.cat(rows).mean(0) if rows else torch.full((len(self.experts),), float("nan"))


KEPT = 4
"""Runs of one ensemble node: a graph rarely samples more often."""


class RoutingRecord:
    """The last runs of one ensemble node, the newest last."""

    def __init__(self) -> None:
        self.runs: deque[RoutingRun] = deque(maxlen=KEPT)
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


def chosen(evaluation: Evaluation, guided: bool) -> list[int]:
    """The rows of a batch that are of the prompt, or of the negative one."""
    return [i for i, side in enumerate(evaluation.guided) if side == guided]


def _rows(shares: Tensor) -> list[list[float] | None]:
    """For JSON, which has no NaN."""
    return [None if row.isnan().any() else row.tolist() for row in shares]
