"""What doing less costs in quality and saves in time, on the scenes' near experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.tools.demo import PROMPT, SIZE

from .measure import interleaved, spread
from .near import Near

LOOKS = 2
STEPS = 20
"""Steps of the sampler; a kept map is from one to decide_every - 1 of them earlier."""
TABLE = (0.25, 0.3, 0.35)
KEPT = {2: (0.0, 0.2, 0.3, 1.0), 4: (0.0, 0.2, 0.3, 1.0), 6: (0.0, 0.2, 0.3, 1.0)}
RANGES = ((0.0, 0.5), (0.5, 1.0), (0.2, 1.0), (0.0, 0.8))


@dataclass(frozen=True)
class Row:
    """widgets: those of AFA Ensemble Model; loss: mean over the steps; blocks: computed, as a part of all experts'."""

    widgets: dict[str, float]
    loss: float
    blocks: float


def bench_selective() -> list[str]:
    near = Near.start()
    full = near.loss(lambda batch, draw: aggregated(near), LOOKS)
    rows = [Row({}, full.mean().item(), 1.0), *_ranges(near, full)]
    rows += [by_table(near, aggregated(near), skip_below, LOOKS) for skip_below in TABLE]
    rows += _kept(near, full)
    seconds = _sampling(near, [row.widgets for row in rows])
    lines = [
        "| AFA Ensemble Model | loss against the full ensemble | experts' blocks computed | time of a sampling / sum of the experts' own |",
        "|---|---|---|---|",
    ]
    for row, times in zip(rows, seconds, strict=True):
        settings = ", ".join(f"{name} {value:g}" for name, value in row.widgets.items()) or "as it is"
        change = row.loss / rows[0].loss - 1
        lines.append(f"| {settings} | {change:+.2%} | {row.blocks:.3f} | {spread(times, 2)} |")
    return [
        *lines,
        "",
        f"Loss of the v-prediction on {len(near.held_out.drawn)} pairs of subjects that neither experts nor aggregator learnt, {LOOKS} draws "
        "of noise and timestep each; kept maps come from a draw with the same noise as many sampler steps earlier. Time: "
        f"{STEPS} Euler steps with guidance, one prompt, one round. These experts are so small that the aggregator is a large part of "
        "a step; how it is at SD1.5's size stands below.",
    ]


def aggregated(near: Near):
    from afa_core.fusion.sabw_fusion import SABWFusion

    return SABWFusion(near.shipped)


def _ranges(near: Near, full: Tensor) -> list[Row]:
    """Outside the range model_1 runs alone. Percents of sampling are timesteps from the last to the first."""
    alone = near.loss(lambda batch, draw: lambda point, features, state: features[:1] * len(features), LOOKS)
    progress = 1 - torch.cat([draw.levels for _, draw in near.draws(LOOKS)]) / 0.999
    rows = []
    for start, end in RANGES:
        inside = (progress >= start) & (progress <= end)
        loss = torch.where(inside, full, alone).mean().item()
        rows.append(Row({"start_percent": start, "end_percent": end}, loss, 1 - 2 / 3 * (1 - (end - start))))
    return rows


def by_table(near: Near, fusion, skip_below: float, looks: int) -> Row:
    """The batches are sorted by noise level, so that one row of the table serves a batch."""
    from afa_core.fusion.selection import Selection, Selector, routing_table

    points, experts = near.frozen.points, len(near.experts)
    table = routing_table(near.file.routing, points, experts)
    selector = Selector(Selection(skip_below, 1, table), fusion, len(points))
    computed: list[float] = []

    def fusion_of(batch, draw):
        gone = selector.choose(0, draw.levels.mean().item, None).left_out
        computed.append(1 - sum(map(len, gone.values())) / len(points) / experts)

        def fuse(point, features, state):
            return fusion(point, [None if point.index in gone[i] else f for i, f in enumerate(features)], state)

        return fuse

    loss = near.loss(fusion_of, looks).mean().item()
    return Row({"skip_below": skip_below}, loss, sum(computed) / len(computed))


def _kept(near: Near, full: Tensor) -> list[Row]:
    rows = []
    for every, thresholds in KEPT.items():
        maps = earlier_maps(near, every)
        for skip_below in thresholds:
            keepers = [EachForItself(kept, skip_below) for kept in maps]
            queue = iter(keepers)
            between = near.loss(lambda batch, draw, queue=queue: next(queue), LOOKS)
            computed = sum(keeper.computed for keeper in keepers) / len(keepers)
            loss = (full.mean().item() + (every - 1) * between.mean().item()) / every
            blocks = (1 + (every - 1) * computed) / every
            rows.append(Row({"skip_below": skip_below, "decide_every": every}, loss, blocks))
    return rows


def earlier_maps(near: Near, every: int) -> list[dict[int, Tensor]]:
    """For every batch the shares [B, N, H, W] by fusion point, from 1 to every - 1 sampler steps earlier."""
    from afa_core.host.training.frozen_experts import outside_inference
    from afa_core.training.draw import Draw
    from afa_core.training.objective import sample_loss

    found = []
    with outside_inference(), torch.no_grad():
        for batch, draw in near.draws(LOOKS):
            ago = 1 + torch.arange(len(batch.items)) % (every - 1)
            earlier = (draw.levels + ago / STEPS).clamp(max=0.999)
            maps: dict[int, Tensor] = {}
            sample_loss(
                near.frozen, aggregated(near), batch, Draw(draw.noise, earlier),
                lambda point, shares, maps=maps: maps.__setitem__(point.index, shares),
            )  # fmt: skip
            found.append(maps)
    return found


class EachForItself:
    """Kept routing where every picture of a batch leaves out its own experts, as if it were sampled alone."""

    def __init__(self, maps: dict[int, Tensor], skip_below: float):
        self.maps = {}
        counts = []
        for index, shares in maps.items():
            means = shares.mean((2, 3))
            stays = (means >= skip_below).scatter(1, means.argmax(1, keepdim=True), True)
            kept = shares * stays[:, :, None, None]
            self.maps[index] = kept / kept.sum(1, keepdim=True).clamp_min(1e-30)
            counts.append(stays.float().mean())
        self.computed = torch.stack(counts).mean().item()

    def __call__(self, point, features, state):
        from afa_core.fusion.fusion import fuse, logits_of

        return fuse(point, features, logits_of(self.maps[point.index]), state)


def _sampling(near: Near, settings: list[dict]) -> list[list[float]]:
    """For each of the settings, the ratios of its rounds: a sampling, beside the experts' own."""
    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)
    running = near.running
    models = {f"model_{i}": model for i, (model, _, _) in enumerate(near.loaded, start=1)}
    clip = near.loaded[0][1]
    negative, positive = (running.call("CLIPTextEncode", clip=clip, text=text)[0] for text in ("", PROMPT))
    (latent,) = running.call("EmptyLatentImage", **SIZE, batch_size=1)

    def sampled(model):
        def run() -> None:
            running.call(
                "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, seed=1, steps=STEPS,
                cfg=3.0, sampler_name="euler", scheduler="normal",
            )  # fmt: skip

        return run

    candidates = {name: sampled(model) for name, model in models.items()}
    for index, widgets in enumerate(settings):
        (model, _) = running.call("AFAEnsembleModel", aggregator=near.file, **models, **widgets)
        candidates[f"{index}"] = sampled(model)
    seconds = interleaved(candidates, rounds=1)
    own = [sum(times) for times in zip(*(seconds[name] for name in models), strict=True)]
    return [[a / b for a, b in zip(seconds[f"{index}"], own, strict=True)] for index in range(len(settings))]
