"""What an ensemble's step costs beside the sum of its experts' own steps, at full size, and where it goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch

from .flops import overhead
from .measure import Meter, interleaved, ratios, spread
from .models import SD15, Family, random_aggregator, random_unet

ECONOMICAL = {"num_layers": 1, "routing_stride": 4}
PRUNED = {"identity_bias": True, "fused": (0, 21, 22, 23, 24)}
"""Of 25 points; the small experts' aggregator has kept three of 13, the first, the last and the prediction."""
ENSEMBLES = {
    "3 experts": (3, {}),
    "3 experts, 1 layer, routing_stride 4": (3, ECONOMICAL),
    "3 experts, identity_bias, 5 points left": (3, PRUNED),
    "2 experts": (2, {}),
    "2 experts, 1 layer, routing_stride 4": (2, ECONOMICAL),
}


@torch.inference_mode()
def bench_step(size: int, rounds: int, most: int = 3, family: Family = SD15) -> list[str]:
    """A table in Markdown, batch 2 (cond and uncond), the experts' attention by PyTorch's kernel.

    most: how many experts; the ensembles of more are left out
    """
    from comfy.ldm.modules import attention

    from afa_core.fusion.averages import StaticFusion
    from afa_core.host.experts.experts import Expert
    from afa_core.host.sampling.ensemble import make_ensemble

    experts = [Expert(random_unet(seed, family), f"model_{seed + 1}") for seed in range(most)]
    candidates = {f"expert {i}": call(expert.patcher, size) for i, expert in enumerate(experts)}
    ensembles = {name: ensemble for name, ensemble in ENSEMBLES.items() if ensemble[0] <= most}
    meters = {name: Meter() for name in ensembles}
    for name, (count, economy) in ensembles.items():
        ensemble = make_ensemble(random_aggregator(experts[:count], **economy), experts[:count])
        candidates[name] = metered(call(ensemble, size, record=True), meters[name])
    average = f"{most} experts, noise average"
    candidates[average] = call(make_ensemble(StaticFusion("noise average"), experts), size)
    with patch.object(attention, "optimized_attention", attention.attention_pytorch):
        seconds = interleaved(candidates, rounds)
        products = {name: overhead(size, count, family, **economy) for name, (count, economy) in ensembles.items()}
    shares = {name: _shares(meter, seconds[name], _alone(seconds, ENSEMBLES[name][0])) for name, meter in meters.items()}
    return [
        "| model | time / sum of the experts' own steps | aggregators | of which self-attention | the first in multiplications |",
        "|---|---|---|---|---|",
        *(_line(name, seconds, ensembles[name][0], shares[name], products[name]) for name in ensembles),
        _line(average, seconds, most, {}, 1.0),
        "",
        "In parts of the same sum: " + ", ".join(_between(part, shares) for part in ("experts", "recording", "the rest")) + ".",
    ]


def _line(name: str, seconds: dict[str, list[float]], experts: int, shares: dict[str, float], products: float) -> str:
    parts = [f"{shares[part]:.3f}" if shares else "" for part in ("aggregators", "self-attention")]
    cells = [name, spread(ratios(seconds[name], *_alone(seconds, experts))), *parts, f"{products:.3f}"]
    return f"| {' | '.join(cells)} |"


def _shares(meter: Meter, together: list[float], alone: list[list[float]]) -> dict[str, float]:
    """Of the sum of the experts' own steps, what every part of the ensemble's takes."""
    own, spent = sum(map(sum, alone)), meter.seconds
    rest = sum(together) - spent["experts"] - spent["aggregators"] - spent["recording"]
    return {part: second / own for part, second in {**spent, "the rest": rest}.items()}


def _between(part: str, shares: dict[str, dict[str, float]]) -> str:
    found = [of[part] for of in shares.values()]
    return f"{part} {min(found):.4f} to {max(found):.4f}"


def _alone(seconds: dict[str, list[float]], count: int) -> list[list[float]]:
    return [seconds[f"expert {i}"] for i in range(count)]


def call(patcher, size: int, record: bool = False, sigma: float = 3.0, options: dict | None = None):
    """One evaluation through the host's apply_model, with what a sampler would hand it, and `options` beside that."""
    from afa_core.host.sampling.parts import ensemble_of
    from afa_core.host.sampling.run import RUN, Run
    from afa_core.routing.wire import wire_step

    random = torch.Generator().manual_seed(0)
    device = patcher.load_device
    x = torch.randn(2, 4, size, size, generator=random).to(device)
    widths = patcher.model.model_config.unet_config
    conds = {"c_crossattn": torch.randn(2, 77, widths["context_dim"], generator=random).to(device)}
    if label := widths["adm_in_channels"]:
        conds["y"] = torch.randn(2, label, generator=random).to(device)
    sigmas = torch.full((2,), sigma, device=device)

    def run() -> None:
        handed = {"uuids": ["prompt", "negative"], "cond_or_uncond": [0, 1]}
        handed |= {"wrappers": patcher.wrappers, **(options or {})}
        patcher.model.current_patcher = patcher
        if record:
            ensemble_of(patcher).record.on_step = lambda run, step, evaluations: wire_step(run, evaluations)
            handed[RUN] = Run(patcher).begin(patcher)
            handed[RUN].prompt = {"prompt"}
            handed[RUN].next_step()
        patcher.model.apply_model(x, sigmas, transformer_options=handed, **conds)
        if record:
            handed[RUN].finish(None)

    return run


def metered(run, meter: Meter):
    """The run, with the time of its parts in the meter. What is recorded is not counted as the aggregators' too."""

    def measured() -> None:
        with parts_timed(meter):
            run()

    return measured


@contextmanager
def parts_timed(meter: Meter) -> Iterator[None]:
    from afa_core.aggregator import sabw
    from afa_core.fusion.sabw_fusion import SABWFusion
    from afa_core.host.architectures import unet
    from afa_core.routing.record import Evaluation, RoutingRun

    stream, attention = unet.unet_stream, sabw.Attention.forward

    def timed_stream(*args, **kwargs):
        blocks, sent = stream(*args, **kwargs), None
        while True:
            with meter("experts"):
                feature = blocks.send(sent)
            sent = yield feature

    def timed_attention(module, tokens, keys_values=None):
        with meter("self-attention" if keys_values is None else "cross-attention"):
            return attention(module, tokens, keys_values)

    fuse, finish = SABWFusion.__call__, RoutingRun.finish
    observe, end = Evaluation.observe, Evaluation.end

    def timed_fusion(*args):
        before = meter.seconds["recording"]
        with meter("aggregators"):
            features = fuse(*args)
        meter.seconds["aggregators"] -= meter.seconds["recording"] - before
        return features

    with ExitStack() as stack:
        for owner, name, replacement in (
            (unet, "unet_stream", timed_stream),
            (sabw.Attention, "forward", timed_attention),
            (SABWFusion, "__call__", timed_fusion),
            (Evaluation, "observe", meter.timed("recording", observe)),
            (Evaluation, "end", meter.timed("recording", end)),
            (RoutingRun, "finish", meter.timed("recording", finish)),
        ):
            stack.enter_context(patch.object(owner, name, replacement))
        yield
