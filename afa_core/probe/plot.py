"""The probe's findings as one picture."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..plots import COLOURS, figure_image
from .report import ROUTERS

NAMES = {"fixed_mix_gain": "best fixed mix over best expert", **ROUTERS}


def probe_plot(report: dict[str, Any]) -> Tensor:
    """An image [1, H, W, 3] in 0..1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), dpi=100, layout="constrained")
    figure.suptitle(_wrapped(report["sentence"], 110), fontsize=11)
    (gains, levels), (losses, alike) = figure.subplots(2, 2)
    _gains(gains, report)
    _levels(levels, report)
    _domains(losses, report)
    _correlation(alike, report, figure)
    return figure_image(figure)


def _gains(axes, report: dict[str, Any]) -> None:
    rows = report["routers"]
    places = range(len(rows))
    values = [100 * row["gain"] for row in rows.values()]
    low = [100 * (row["gain"] - row["low"]) for row in rows.values()]
    high = [100 * (row["high"] - row["gain"]) for row in rows.values()]
    axes.barh(places, values, xerr=[[max(x, 0) for x in low], [max(x, 0) for x in high]], color=COLOURS[0], capsize=4)
    axes.axvline(0, color="black", linewidth=0.8)
    for percent in (1, 3):
        axes.axvline(percent, color="#666666", linewidth=0.8, linestyle=":")
    axes.set_yticks(places, [NAMES[name] for name in rows])
    axes.invert_yaxis()
    axes.set_xlabel("% less loss than the best fixed mix (dotted: 1 % and 3 %)")


def _levels(axes, report: dict[str, Any]) -> None:
    rows = report["by_level"]
    steps = [row["timestep"] for row in rows]
    axes.plot(steps, [100 * r["fixed_mix_gain"] for r in rows], "--", color="#666666", label=NAMES["fixed_mix_gain"])
    for name, colour in zip(report["routers"], COLOURS, strict=False):
        gains = [100 * row["gains"][name] for row in rows]
        axes.plot(steps, gains, color=colour, marker="o", markersize=3, label=NAMES[name])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlabel("timestep (left: details, right: outlines)")
    axes.set_ylabel("% less loss")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _domains(axes, report: dict[str, Any]) -> None:
    """Loss of every expert in every sub-folder, in shares of the best fixed mix's."""
    rows = report["by_domain"]
    width = 0.8 / len(report["experts"])
    for number, (name, colour) in enumerate(zip(report["experts"], COLOURS, strict=False)):
        places = [place + number * width for place in range(len(rows))]
        axes.bar(places, [row["losses"][number] for row in rows], width, color=colour, label=name)
    axes.set_xticks([p + 0.4 - width / 2 for p in range(len(rows))], [row["domain"] or "all pictures" for row in rows])
    least = min(loss for row in rows for loss in row["losses"])
    axes.set_ylim(0.8 * least, None)
    axes.set_ylabel("loss")
    axes.legend(fontsize=7)


def _correlation(axes, report: dict[str, Any], figure) -> None:
    values = report["correlation"]
    image = axes.imshow(values, cmap="viridis", vmin=min(map(min, values)), vmax=1)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.3f}", ha="center", va="center", color="white" if value < 0.97 else "black")
    names = [name.split(" ")[0] for name in report["experts"]]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_title("correlation of the experts' errors (1: nothing to gain)", fontsize=9)
    figure.colorbar(image, ax=axes)


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))
