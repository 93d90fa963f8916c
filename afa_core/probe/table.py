"""The probe's findings as text."""

from __future__ import annotations

from typing import Any

from .report import ROUTERS


def probe_table(report: dict[str, Any]) -> str:
    """The verdict, and what it rests on: paragraphs and lists, which some front ends show as Markdown."""
    mix = report["fixed_mix"]
    parts = [
        report["sentence"],
        f"{report['pictures']} pictures, {report['noises']} noises, {len(report['by_level'])} noise levels.",
        "Loss:",
        [
            *(f"{name}: {loss:.5f}" for name, loss in report["losses"].items()),
            f"best fixed mix: {mix['loss']:.5f} ({100 * mix['gain']:+.1f} %)",
        ],
        "Less loss than the best fixed mix, if an aggregator learns the",
        [f"{ROUTERS[name]}: {_gained(row)}" for name, row in report["routers"].items()],
        "Without training, less loss than the average with equal shares:",
        [f"weights for every noise level (the output fusion): {_gained(report['level_weights'])}"],
        "How much the experts differ:",
        [
            f"correlation of the errors: {report['diversity']:.4f} (1: nothing to gain)",
            f"consistency (kappa): {report['kappa']:.3f} (0: chance)",
        ],
        "A lower loss does not prove better pictures: compare pictures of the experts before training for hours.",
    ]
    if len(report["by_domain"]) > 1:
        rows = report["by_domain"]
        losses = [", ".join(f"{loss:.5f}" for loss in row["losses"]) for row in rows]
        parts += [
            "Loss by sub-folder:",
            [
                f"{row['domain'] or '(top)'}: {loss}; best: {row['best']}"
                for row, loss in zip(rows, losses, strict=True)
            ],
        ]
    return "\n\n".join(part if isinstance(part, str) else "\n".join(f"- {line}" for line in part) for part in parts)


def _gained(row: dict[str, Any]) -> str:
    return f"{100 * row['gain']:+.1f} % (95 %: {100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
