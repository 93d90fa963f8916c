"""What an ensemble's step costs beside the sum of its experts' own steps, at SD1.5's size."""

from __future__ import annotations

import torch

from .measure import interleaved, ratios, spread
from .models import random_aggregator, sd15


def bench_step(sizes: tuple[int, ...] = (32, 64), counts: tuple[int, ...] = (2, 3), rounds: int = 3) -> list[str]:
    """Lines of a Markdown table: overhead of the ensemble's step, bf16, batch 2 (cond and uncond)."""
    lines = [
        "| latent | experts | ensemble / sum of experts | without fusion / sum | recording |",
        "|---|---|---|---|---|",
    ]
    patchers = [sd15(seed, torch.bfloat16) for seed in range(max(counts))]
    for size in sizes:
        for count in counts:
            lines.append(_row(patchers[:count], size, rounds))
            print(lines[-1], flush=True)
    return lines


@torch.inference_mode()
def _row(patchers: list, size: int, rounds: int) -> str:
    from afa_core.fusion import StaticFusion
    from afa_core.host.ensemble import make_ensemble
    from afa_core.host.experts import Expert

    experts = [Expert(patcher, f"model_{i}") for i, patcher in enumerate(patchers, start=1)]
    ensemble = make_ensemble(random_aggregator(experts), experts)
    silent = make_ensemble(StaticFusion("noise average"), experts)
    candidates = {f"expert {i}": call(patcher, size) for i, patcher in enumerate(patchers)}
    candidates |= {"ensemble": call(ensemble, size), "recorded": call(ensemble, size, record=True)}
    candidates["unfused"] = call(silent, size)
    seconds = interleaved(candidates, rounds)
    alone = [seconds[f"expert {i}"] for i in range(len(patchers))]
    return (
        f"| {size}x{size} | {len(patchers)} | {spread(ratios(seconds['ensemble'], *alone))} | "
        f"{spread(ratios(seconds['unfused'], *alone))} | {spread(ratios(seconds['recorded'], seconds['ensemble']))} |"
    )


def call(patcher, size: int, record: bool = False):
    """One evaluation through the host's apply_model, with what a sampler would hand it."""
    from afa_core.host.run import RUN, ensemble_of

    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, size, size, generator=random)
    text = torch.randn(2, 77, 768, generator=random)
    sigma = torch.full((2,), 3.0)

    def run() -> None:
        options = {"cond_or_uncond": [0, 1], "wrappers": patcher.wrappers}
        if record:
            ensemble = ensemble_of(patcher)
            options[RUN] = ensemble.record.begin([], ensemble.points)
        patcher.model.current_patcher = patcher
        patcher.model.apply_model(x, sigma, c_crossattn=text, transformer_options=options)

    return run
