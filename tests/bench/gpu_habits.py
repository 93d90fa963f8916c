"""How an ensemble treats a GPU, counted on one that is not there: kernels, casts, and what the CPU waits for.

`python -m tests.bench gpu_habits` prints one line each with its limit, and exits with 1 where one is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from typing import NamedTuple
from unittest.mock import patch

import torch

from tests.support.ensembles import config_for
from tests.support.fake_gpu import Counts, counted, fake_gpu, to_fake_gpu

from .models import PUBLISHED, SD15, Family, network

EXPERTS = 3
SIDE = 64
STEPS = 4
"""Of the runs in which waiting is counted: with decide_every 2, two that decide and two that keep."""
ECONOMICAL = {"num_layers": 1, "routing_stride": 4}
FAST = {"skip_below": 0.2, "decide_every": 2}
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
        return f"| {self.what} | {self.found:,} | {self.limit:,} |{'' if self.holds else ' MISSED'}"


def bench_gpu_habits() -> list[str]:
    found = rows()
    return [
        f"SD1.5 size, bf16, {EXPERTS} experts, latent {SIDE}x{SIDE}, prompt and negative prompt in one evaluation. Counted in the pack's own code on fake "
        "tensors of a GPU that is not there; no time was measured, and nothing here was run on a GPU.",
        "",
        "| what | counted | at most |",
        "|---|---|---|",
        *map(str, found),
    ]


def rows() -> list[Row]:
    found = []
    with fake_ensembles(SD15) as (experts, make):
        plain = make()
        economical = make(**ECONOMICAL)
        own = sum(kernels(one_step(expert.patcher)) for expert in experts)
        found += [
            Row("kernels of fusion and recording in an evaluation, 2 layers", kernels(one_step(plain)) - own, 1350),
            Row("the same with 1 layer, routing_stride 4", kernels(one_step(economical)) - own, 1050),
        ]
    with fake_ensembles(SHALLOW) as (_, make):  # how often something waits does not go by the number of blocks
        plain = make()
        steps, end = waits_of_run(plain)
        found.append(Row("blocking reads and copies in a step", max(steps), 1))
        found.append(Row("blocking reads and copies at the end of a run", end, 3))
        found.append(Row("blocking reads and copies in a step, viewer open", max(waits_of_run(plain, True)[0]), 1))
        fast = make(widgets=FAST)
        found.append(Row("the same on the fast setting", max(waits_of_run(fast, True)[0]), 1))
        table = make(widgets={"skip_below": 0.2}, with_table=True)
        found.append(Row("the same by the table of training, experts left out", max(waits_of_run(table, True)[0]), 1))
        part = make(widgets={"end_percent": 0.5})
        found.append(Row("the same, fused in a part of the steps", max(waits_of_run(part, True)[0]), 1))
    return found


def kernels(counts: Counts) -> int:
    return counts.kernels.total()


@contextmanager
def fake_ensembles(family: Family) -> Iterator[tuple[list, Callable]]:
    """The experts, and a function that makes an ensemble of them; all of it on the fake GPU."""
    import comfy.model_management
    from comfy.ldm.modules import attention
    from comfy.model_patcher import ModelPatcher

    from afa_core.aggregator.file import AggregatorFile
    from afa_core.host.experts.experts import Expert
    from afa_core.host.sampling.ensemble import make_ensemble

    gpu, meta = torch.device("cuda"), torch.device("meta")
    with ExitStack() as stack:
        experts = [Expert(ModelPatcher(network(family, "meta"), gpu, gpu), f"model_{i + 1}") for i in range(EXPERTS)]
        stack.enter_context(patch.object(attention, "optimized_attention", attention.attention_pytorch))

        def make(widgets: dict | None = None, with_table: bool = False, **economy):
            config = config_for(experts[0].patcher, EXPERTS, **{**PUBLISHED, **economy})
            names = [point.name for point in experts[0].points]
            routing = {"points": names, "shares": [[list(SHARES)] * len(names)]} if with_table else {}
            file = AggregatorFile("fake", config, {k: torch.empty(s, device=meta) for k, s in config.shapes()}, routing=routing)
            with (
                patch.object(comfy.model_management, "unet_offload_device", lambda: meta),
                patch.object(comfy.model_management, "get_torch_device", lambda: gpu),
            ):
                ensemble = make_ensemble(file, experts, **(widgets or {}))
            with fake_gpu():
                to_fake_gpu(ensemble.get_additional_models()[-1].model)
            return ensemble

        first = make()  # what is checked of experts is checked on real numbers
        del first
        with fake_gpu():
            for expert in experts:
                to_fake_gpu(expert.patcher.model.diffusion_model)
        yield experts, make


@torch.inference_mode()
def one_step(patcher) -> Counts:
    """One evaluation, recorded where it is an ensemble's."""
    from afa_core.host.sampling.run import Run, ensemble_of

    run = Run(patcher).begin(patcher) if ensemble_of(patcher) else None
    with fake_gpu(), counted(cycle(SHARES).__next__) as counts:
        step(patcher, run, 3.0)
    return counts


@torch.inference_mode()
def waits_of_run(patcher, viewer: bool = False) -> tuple[list[int], int]:
    """Waits in each step of a run, and at its end."""
    from afa_core.host.sampling.run import Run, ensemble_of
    from afa_core.routing.wire import wire_step

    ensemble_of(patcher).record.on_step = (lambda run, step, evaluations: wire_step(run, evaluations)) if viewer else None
    run = Run(patcher).begin(patcher)
    assert run.selector.by_level is not None and run._range  # what a run computes once
    totals = []
    with fake_gpu(), counted(cycle(SHARES).__next__) as counts:
        for number in range(STEPS):
            before = counts.waits.total()
            step(patcher, run, 14.0 * 0.9**number)
            totals.append(counts.waits.total() - before)
        before = counts.waits.total()
        run.finite.hear()
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
