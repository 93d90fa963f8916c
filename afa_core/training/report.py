"""What a training has to say for itself: in words, and as a plot."""

from __future__ import annotations

from torch import Tensor

from ..aggregator.file import AggregatorFile
from ..plots import COLOURS, figure_image
from .state import TrainingState

GREY = "#666666"


def report_text(file: AggregatorFile, state: TrainingState) -> str:
    """The held-out loss beside what needs no training, and who is followed where; some front ends show it as Markdown."""
    best = state.best_loss
    rival, level = min(state.baselines.items(), key=lambda row: row[1])
    shares = state.evaluations[-1]["shares"]
    lines = [
        f"{file.name}: {state.step} steps, {state.seconds:.0f} s, {state.finished}.",
        f"Held-out loss {best:.5f}, {(best / level - 1) * 100:+.2f} % against the best without training ({rival}, {level:.5f}).",
        "",
        *(f"- {name}: {loss:.5f}" for name, loss in sorted(state.baselines.items(), key=lambda row: row[1])),
        f"- this aggregator: {best:.5f}",
        "",
        "Mean share of each expert on the held-out pictures:",
        "",
        *(f"- {e['file']}: {sum(point[i] for point in shares) / len(shares):.3f}" for i, e in enumerate(file.experts)),
    ]
    if best >= level:
        lines += ["", f"Training has not paid yet: {rival} is as good. Train longer, or probe the experts first."]
    return "\n".join(lines)


def loss_plot(state: TrainingState, experts: list[str]) -> Tensor:
    """An image [1, H, W, 3] in 0..1: losses over the steps, with what needs no training, and the shares."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), dpi=100, layout="constrained")
    losses, shares = figure.subplots(1, 2)
    losses.plot(_smoothed(state.losses), color="#56B4E9", linewidth=1, label="training (smoothed)")
    steps = [row["step"] for row in state.evaluations]
    losses.plot(steps, [row["held_out"] for row in state.evaluations], color="#D55E00", marker="o", label="held out")
    singles = {name: loss for name, loss in state.baselines.items() if name in experts}
    for name, style in ((min(singles, key=singles.__getitem__), ":"), ("noise average", "-."), ("block average", "--")):
        losses.axhline(state.baselines[name], color=GREY, linestyle=style, linewidth=1, label=name)
    losses.set_xlabel("step")
    losses.set_ylabel("loss")
    losses.legend(fontsize=7)
    for i, (name, colour) in enumerate(zip(experts, COLOURS, strict=False)):
        mean = [sum(point[i] for point in row["shares"]) / len(row["shares"]) for row in state.evaluations]
        shares.plot(steps, mean, color=colour, marker="o", markersize=3, label=name)
    shares.set_ylim(0, 1)
    shares.set_xlabel("step")
    shares.set_ylabel("mean share")
    shares.legend(fontsize=7)
    return figure_image(figure)


def _smoothed(losses: list[float], decay: float = 0.95) -> list[float]:
    """Exponential moving average, started at the first value."""
    smooth: list[float] = []
    for loss in losses:
        smooth.append(loss if not smooth else decay * smooth[-1] + (1 - decay) * loss)
    return smooth
