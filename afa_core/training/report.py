"""The result of a training, in words and as a plot."""

from __future__ import annotations

from itertools import accumulate

from torch import Tensor

from ..plots import COLOURS, figure_image
from .state import TrainingState
from .task import Task

GREY = "#666666"
STYLES = (":", "-.", "--")


def report_text(name: str, task: Task, state: TrainingState) -> str:
    """The held-out loss beside what needs no training, and the task's own values; some front ends show it as Markdown."""
    best, chosen = state.best_loss(task.chosen_by), state.evaluations[state.best_at(task.chosen_by)]
    others = {name: loss for name, loss in state.baselines.items() if name != task.goal}
    rival, level = min(others.items(), key=lambda row: row[1])
    lines = [
        f"{name}: {state.step} steps, {state.seconds:.0f} s, {state.finished}.",
        f"Held-out loss {best:.5f}, {(best / level - 1) * 100:+.2f} % against the best without training ({rival}, {level:.5f}).",
        "",
        *(f"- {name}: {loss:.5f}" for name, loss in sorted(state.baselines.items(), key=lambda row: row[1])),
        f"- this {task.name}: {best:.5f}",
        "",
        f"{task.curves_title.capitalize()} on the held-out pictures:",
        "",
        *(f"- {name}: {value:.3f}" for name, value in task.curves(chosen, state.baselines).items()),
    ]
    if state.skipped:
        lines += ["", f"{state.skipped} steps were tried again, since their gradients overflowed float16."]
    if best >= level:
        lines += ["", f"The held-out loss is not below that of {rival} yet: train longer, or probe the experts first."]
    return "\n".join(lines)


def loss_plot(task: Task, state: TrainingState) -> Tensor:
    """An image [1, H, W, 3] in 0..1: losses over the steps, with what needs no training, and the task's own curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), dpi=100, layout="constrained")
    losses, curves = figure.subplots(1, 2)
    losses.plot(_smoothed(state.losses), color="#56B4E9", linewidth=1, label="training (smoothed)")
    steps = [row["step"] for row in state.evaluations]
    losses.plot(steps, [row["held_out"] for row in state.evaluations], color="#D55E00", marker="o", label="held out")
    for (name, level), style in zip(task.rivals(state.baselines).items(), STYLES, strict=False):
        losses.axhline(level, color=GREY, linestyle=style, linewidth=1, label=name)
    losses.set_xlabel("step")
    losses.set_ylabel("loss")
    losses.legend(fontsize=7)
    rows = [task.curves(row, state.baselines) for row in state.evaluations]
    for name, colour in zip(rows[0], COLOURS, strict=False):
        curves.plot(steps, [row[name] for row in rows], color=colour, marker="o", markersize=3, label=name)
    shown = [value for row in rows for value in row.values()]
    curves.set_ylim(min(0, *shown), max(1, *shown))
    curves.set_xlabel("step")
    curves.set_ylabel(task.curves_title)
    curves.legend(fontsize=7)
    return figure_image(figure)


def _smoothed(losses: list[float]) -> list[float]:
    """Exponential moving average, started at the first value."""
    return list(accumulate(losses, lambda mean, loss: 0.95 * mean + 0.05 * loss))
