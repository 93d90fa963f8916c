"""Routing as JSON of a few kilobytes a step: what the viewer in the browser draws.

Maps are sent as bytes (share times 255) at a side that keeps them within a budget. The last expert's are left
out, since shares sum to 1.
"""

from __future__ import annotations

import base64
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .record import SIDES, Evaluation, RoutingRun, by_size, chosen

MAP_SIDES = (32, 24, 16, 12, 8, 6, 4)
STEP_BYTES = 6_000
"""Budget for the maps of one step, sent while sampling; base64 makes a third more of them."""
RUN_BYTES = 600_000
"""Budget for the maps of a whole run, kept for the viewer."""


def wire_header(run: RoutingRun) -> dict[str, Any]:
    return {"version": 1, "run": run.id, "experts": run.experts, "points": [point.name for point in run.points]}


def wire_step(run: RoutingRun, evaluations: list[Evaluation], budget: int = STEP_BYTES) -> dict[str, Any]:
    """One step as JSON: {"sigma", "prompt": SIDE, "negative": SIDE}, a side absent where it was not evaluated.

    SIDE is {"points": indices of the fusion points, "shares": mean over the batch [points][N],
    "sizes": [h, w] of each point's map, [0, 0] where its share does not vary,
    "maps": base64 of bytes [N - 1, h, w], one point after another, of the first picture of the batch}.
    """
    sides = {name: _side(evaluations, guided) for name, guided in SIDES.items()}
    sides = {name: side for name, side in sides.items() if side["shares"]}
    sizes = [(m.shape[-2], m.shape[-1]) for side in sides.values() for m in side["maps"].values()]
    limit = _map_side(sizes, len(run.experts) - 1, budget)
    return {"sigma": evaluations[0].sigma, **{name: _packed(side, limit) for name, side in sides.items()}}


def wire_run(run: RoutingRun) -> dict[str, Any]:
    """A whole run as JSON: the header, and "steps" as of `wire_step`."""
    steps = [evaluations for _, evaluations in run.steps]
    return {**wire_header(run), "steps": [wire_step(run, step, RUN_BYTES // len(steps)) for step in steps]}


def _side(evaluations: list[Evaluation], guided: bool) -> dict[str, dict[int, Tensor]]:
    """{"shares": mean share [N], "maps": the first picture's map [N, h, w]} by index of the fusion point."""
    rows: dict[int, list[Tensor]] = {}
    maps: dict[int, Tensor] = {}
    for evaluation in evaluations:
        rows_of_side = chosen(evaluation, guided)
        if not rows_of_side:
            continue
        picked = torch.stack(list(evaluation.shares.values()))[:, rows_of_side] if evaluation.shares else []
        for point, shares in zip(evaluation.shares, picked, strict=True):
            rows.setdefault(point, []).append(shares)
        for point, tensor in evaluation.maps.items():
            maps.setdefault(point, tensor[rows_of_side[0]])
    return {"shares": {point: torch.cat(rows[point]).mean(0) for point in sorted(rows)}, "maps": maps}


def _map_side(sizes: list[tuple[int, int]], copies: int, budget: int) -> int:
    """The largest side at which `copies` maps of each of these sizes fit into the budget, or the smallest of all."""
    for side in MAP_SIDES:
        if copies * sum(min(h, side) * min(w, side) for h, w in sizes) <= budget:
            return side
    return MAP_SIDES[-1]


def _packed(side: dict[str, dict[int, Tensor]], limit: int) -> dict[str, Any]:
    points = list(side["shares"])
    small = _shrunk(side["maps"], limit)
    flat = [small[point].flatten() for point in points if point in small]
    data = torch.cat(flat).numpy().tobytes() if flat else b""
    shares = torch.stack([side["shares"][point] for point in points]).tolist()
    return {
        "points": points,
        "shares": [[round(share, 4) for share in row] for row in shares],
        "sizes": [list(small[point].shape[-2:]) if point in small else [0, 0] for point in points],
        "maps": base64.b64encode(data).decode(),
    }


def _shrunk(maps: dict[int, Tensor], limit: int) -> dict[int, Tensor]:
    """All but the last expert's maps [N - 1, h, w] as bytes, at most `limit` a side; those of one size at once."""
    small = {}
    for points in by_size(maps):
        height, width = maps[points[0]].shape[1:]
        stacked = torch.stack([maps[point][:-1] for point in points]).float()
        pooled = F.adaptive_avg_pool2d(stacked, (min(height, limit), min(width, limit)))
        small |= zip(points, (pooled * 255).round().clamp(0, 255).to(torch.uint8), strict=True)
    return small
