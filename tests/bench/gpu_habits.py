"""How an ensemble treats a GPU, counted on one that is not there: kernels, casts, and what the CPU waits for.

`python -m tests.bench gpu_habits` prints one line each with its limit, and exits with 1 where one is missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import NamedTuple
from unittest.mock import patch

import torch

from tests.support.ensembles import config_for
from tests.support.fake_gpu import Counts, counted, fake_gpu, to_fake_gpu

from .compiled import compiled_kernels
from .models import PUBLISHED, SD15, Family, network
from .training_habits import training_counts

EXPERTS = 3
SIDE = 64
STEPS = 3
"""Of the runs in which waiting is counted: in the third the first's answer is read. With decide_every 2 one more, of two
that decide and two that keep."""
ECONOMICAL = {"num_layers": 1, "routing_stride": 4}
FAST = {"skip_below": 0.2, "decide_every": 2}
MISSED = ", **missed**"
SHARES = (0.7, 0.2, 0.1)
"""What is read as mean shares, in turns: on the fast setting somebody is left out of every block."""


SHALLOW = Family(
    "SD15",
    {
        **SD15.config, "num_res_blocks": [1] * 4, "transformer_depth": [1] * 3 + [0], "transformer_depth_output": [1] * 6 + [0] * 2,
    },
)  # fmt: skip


class Row(NamedTuple):
    """What was counted, of what, and what it may be at most."""

    what: str
    found: int
    limit: int

    @property
    def holds(self) -> bool:
        return self.found <= self.limit

    def __str__(self) -> str:
        return f"| {self.what} | {self.found:,} | {self.limit:,}{'' if self.holds else MISSED} |"


def bench_gpu_habits() -> list[str]:
    found = [*rows(SD15, SHALLOW), _compiled()]
    return [
        f"SD1.5 size, bf16, {EXPERTS} experts, latent {SIDE}x{SIDE}, prompt and negative prompt in one evaluation. Counted in the pack's own code on fake "
        "tensors of a GPU that is not there; no time was measured.",
        "",
        "| what | counted | at most |",
        "|---|---|---|",
        *map(str, found),
    ]


def rows(family: Family, shallow: Family) -> list[Row]:
    """family: whose kernels and casts are counted, within limits a fusion point; shallow: whose waits are"""
    return [*_kernels(family), *_waits(shallow), *_training(family)]


def _kernels(family: Family) -> Iterator[Row]:
    with fake_ensembles(family, {"plain": {}, "economical": ECONOMICAL}) as (experts, ensembles):
        own, points = sum(kernels(one_step(expert.patcher)) for expert in experts), len(experts[0].points)
        found = {name: kernels(one_step(ensemble)) - own for name, ensemble in ensembles.items()}
        yield Row("kernels of fusion and recording in an evaluation, 2 layers", found["plain"], 54 * points)
        yield Row("the same with 1 layer, routing_stride 4", found["economical"], 42 * points)


def _compiled() -> Row:
    """Missed: matrix products, convolutions and attention are 22 external kernels at each of 25 points, 550 in all.

    Between them norms and gates leave 15 generated ones a point, which inductor cannot fuse further.
    """
    found = compiled_kernels(EXPERTS)
    parts = f"{found['generated']} generated, {found['external']} external"
    return Row(f"compiled by inductor for a CPU, without recording, 2 layers: {parts}", found.total(), 700)


def _waits(family: Family) -> Iterator[Row]:
    kinds = {
        "plain": {}, "fast": FAST, "by the table of training": {"skip_below": 0.2, "table": True}, "part": {"end_percent": 0.5},
    }  # fmt: skip
    with fake_ensembles(family, kinds) as (_, ensembles):  # how often something waits does not go by the size
        steps, end = waits_of_run(ensembles["plain"])
        yield Row("blocking reads and copies in a step", max(steps), 1)
        yield Row("the same, viewer open", max(waits_of_run(ensembles["plain"], viewer=True)[0]), 1)
        yield Row("the same, skip_below and decide_every", max(waits_of_run(ensembles["fast"], STEPS + 1, viewer=True)[0]), 1)
        table = waits_of_run(ensembles["by the table of training"], viewer=True)[0]
        yield Row("the same, skip_below by the table of training, experts missing", max(table), 1)
        yield Row("the same, fused in a part of the steps", max(waits_of_run(ensembles["part"], viewer=True)[0]), 1)
        yield Row("blocking reads and copies at the end of a run", end, 3)


def _training(family: Family) -> Iterator[Row]:
    with fake_ensembles(family, {}) as (experts, _):
        found = training_counts(experts)
        yield Row("casts in a training step's forward pass", found.casts, 12 * len(experts[0].points))
        yield Row("blocking reads and copies in a training step, before the backward pass", found.before, 0)
        yield Row("the same in all", found.in_all, 1)


def kernels(counts: Counts) -> int:
    return counts.kernels.total()


@contextmanager
def fake_ensembles(
    family: Family, kinds: dict[str, dict], devices: Sequence[str] = ("cuda",) * EXPERTS
) -> Iterator[tuple[list, dict]]:
    """The experts, and an ensemble of them for each kind: widgets and sizes of the aggregator. All on fake GPUs.

    devices: of the experts
    """
    import comfy.model_management
    from comfy.ldm.modules import attention
    from comfy.model_patcher import ModelPatcher

    from afa_core.host.experts.experts import Expert

    gpu, meta = torch.device(devices[0]), torch.device("meta")
    loaded = [ModelPatcher(network(family, "meta"), torch.device(device), gpu) for device in devices]
    experts = [Expert(patcher, f"model_{i + 1}") for i, patcher in enumerate(loaded)]
    with (
        patch.object(comfy.model_management, "unet_offload_device", lambda: meta),
        patch.object(comfy.model_management, "get_torch_device", lambda: gpu),
        patch.object(attention, "optimized_attention", attention.attention_pytorch),
    ):
        ensembles = {name: _ensemble(experts, **kind) for name, kind in kinds.items()}
        with fake_gpu():
            for model in (*experts, *(e.get_additional_models()[-1] for e in ensembles.values())):
                patcher = getattr(model, "patcher", model)
                to_fake_gpu(patcher.model, str(patcher.load_device))
        yield experts, ensembles


def _ensemble(experts: list, table: bool = False, **settings):
    from afa_core.aggregator.file import AggregatorFile
    from afa_core.host.sampling.ensemble import make_ensemble

    sizes = {name: value for name, value in settings.items() if name in ECONOMICAL}
    config = config_for(experts[0].patcher, EXPERTS, **{**PUBLISHED, **sizes})
    names = [point.name for point in experts[0].points]
    routing = {"points": names, "shares": [[list(SHARES)] * len(names)]} if table else {}
    state = {key: torch.empty(shape, device="meta") for key, shape in config.shapes()}
    widgets = {name: value for name, value in settings.items() if name not in sizes}
    return make_ensemble(AggregatorFile("fake", config, state, routing=routing), experts, **widgets)


@torch.inference_mode()
def one_step(patcher) -> Counts:
    """One evaluation, recorded where it is an ensemble's."""
    from afa_core.host.sampling.parts import ensemble_of
    from afa_core.host.sampling.run import Run

    run = Run(patcher).begin(patcher) if ensemble_of(patcher) else None
    with fake_gpu(), counted(cycle(SHARES).__next__) as counts:
        step(patcher, run, 3.0)
    return counts


@torch.inference_mode()
def waits_of_run(patcher, steps: int = STEPS, viewer: bool = False) -> tuple[list[int], int]:
    """Waits in each step of a run, and at its end."""
    from afa_core.host.sampling.parts import ensemble_of
    from afa_core.host.sampling.run import Run

    def look(run, step: int, evaluations: list) -> None:
        """What the viewer reads of a step; what it makes of that is work of the CPU."""
        for evaluation in evaluations:
            _ = evaluation.sigma, evaluation.shares, evaluation.maps

    ensemble = ensemble_of(patcher)
    ensemble.record.on_step = look if viewer else None
    totals = []
    with fake_gpu(), counted(cycle(SHARES).__next__) as counts:
        run = Run(patcher).begin(patcher)
        for number in range(steps):
            before = counts.waits.total()
            step(patcher, run, 14.0 * 0.9**number)
            totals.append(counts.waits.total() - before)
        before = counts.waits.total()
        run.finite.read_sums()
        run.finish(torch.zeros(1, 4, SIDE, SIDE, device="cuda"))
        return totals, counts.waits.total() - before


def step(patcher, run, sigma: float) -> None:
    """As the host's sampler asks for it: the wrapper around its prediction, then the wrapper around the network."""
    from afa_core.host.sampling.run import RUN, predict_noise

    x = torch.zeros(2, 4, SIDE, SIDE, device="cuda")
    text = torch.zeros(2, 77, 768, device="cuda")
    sigmas = torch.full((2,), sigma, device="cuda")
    options = {"cond_or_uncond": [0, 1], "uuids": ["prompt", "negative"], "wrappers": patcher.wrappers, RUN: run}
    patcher.model.current_patcher = patcher

    def executor(*_):
        patcher.model.apply_model(x, sigmas, transformer_options=options, c_crossattn=text)

    predict_noise(executor, x, sigmas, {"transformer_options": options})
