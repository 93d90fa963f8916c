"""Routing panels: attention maps over a picture, and mean weights by step and by fusion point."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..plots import COLOURS, figure_image
from .record import MAP_SIZE, RoutingRun


def routing_panels(run: RoutingRun, picture: Tensor | None) -> Tensor:
    """Panels [1, H, W, 3] in 0..1: a map an expert over the first picture [H, W, 3], shares by step and by point."""
    from matplotlib.figure import Figure

    experts = len(run.experts)
    columns = max(experts, 2)
    figure = Figure(figsize=(3.2 * columns, 6.4), dpi=100, layout="constrained")
    grid = figure.add_gridspec(2, 1)
    upper, lower = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    maps = run.mean_map()
    full = clearest(maps)
    upper.suptitle(f"colour: none at an even share, {1 / experts:.0%}; full at {full:.0%} and above", fontsize=9)
    strengths = leads(maps, full)
    shares = run.shares_by_point()
    rows = zip(upper.subplots(1, columns).flat, strengths, shares.mean(0).tolist(), run.experts, COLOURS, strict=False)
    for axes, strength, share, name, colour in rows:
        _draw_map(axes, strength, picture, colour)
        axes.set_title(f"{name}\nmean share {share:.2f}", fontsize=9)
    for axes in upper.axes[experts:]:
        axes.axis("off")
    by_step, by_point = lower.subplots(1, 2)
    _draw_shares(by_step, run.shares_by_step(), "step", run.experts)
    _draw_shares(by_point, shares, "fusion point", run.experts)
    names = [run.points[i].name for i in run.fused_points]
    by_point.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    return figure_image(figure)


def leads(maps: Tensor, full: float) -> Tensor:
    """How far each expert leads [N, h, w] by its share [N, h, w]: 0 at an even share or below, 1 at `full` and above."""
    even = 1 / len(maps)
    return ((maps - even) / (full - even)).clamp(0, 1)


def clearest(maps: Tensor) -> float:
    """The share at which colours are full: that of the clearest places, the uppermost 2 %, as in the viewer."""
    even = 1 / len(maps)
    places = F.interpolate(maps[None], (MAP_SIZE, MAP_SIZE), mode="bilinear")[0].amax(0)
    # So near to an even share that it says nothing, colours stay faint.
    return max(places.quantile(0.98, interpolation="nearest").item(), even + 0.05 * (1 - even))


def _draw_map(axes, strength: Tensor, picture: Tensor | None, colour: str) -> None:
    """How far one expert leads [h, w], as the opacity of its colour, over the picture in light grey."""
    from matplotlib.colors import to_rgb

    height, width = (strength.shape[-2] * 8, strength.shape[-1] * 8) if picture is None else picture.shape[:2]
    axes.set_xticks([])
    axes.set_yticks([])
    grey = torch.ones(height, width) if picture is None else picture.float().cpu().mean(-1)
    axes.imshow(0.26 + 0.78 * grey, cmap="gray", vmin=0, vmax=1)
    alpha = F.interpolate(strength[None, None], (height, width), mode="bilinear")[0, 0]
    overlay = torch.tensor(to_rgb(colour)).expand(height, width, 3)
    axes.imshow(torch.cat([overlay, alpha[..., None] * 0.85], dim=-1))


def _draw_shares(axes, shares: Tensor, what: str, experts: list[str]) -> None:
    for column, name, colour in zip(shares.T, experts, COLOURS, strict=False):
        axes.plot(column, color=colour, marker="o", markersize=3, label=name)
    axes.set_ylim(0, 1)
    axes.set_xlabel(what)
    axes.set_ylabel("share")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
