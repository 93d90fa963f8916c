"""What a training step costs: beside the experts' own forward and input-gradient passes, and with checkpointing."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .measure import interleaved, ratios, spread
from .models import random_aggregator, random_unet


def training_pass(experts: list, size: int, checkpointing: bool) -> Callable[[], None]:
    """A forward and backward pass of the trainer's loss, batch 1."""
    from afa_core.host.training.frozen_experts import HostExperts, outside_inference
    from afa_core.training.data.dataset import Batch
    from afa_core.training.draw import training_draw
    from afa_core.training.tasks.aggregator import AggregatorSettings, AggregatorTask

    frozen = HostExperts(experts, checkpointing)
    frozen.load([1, 4, size, size])
    task = AggregatorTask(frozen, random_aggregator(experts).config, [], AggregatorSettings(), seed=0)
    text = {"c_crossattn": torch.randn(1, 77, 768), "y": None}
    latents = torch.randn(1, 4, size, size)
    batch = Batch([0], latents, [text] * len(experts), torch.zeros(1, dtype=torch.bool))

    def run() -> None:
        with outside_inference():
            task.loss(batch, training_draw(latents.shape, 0, 0))["error"].backward()

    return run


def input_gradient_pass(expert, size: int) -> Callable[[], None]:
    """The expert's own forward pass and the gradient of its input, through the same block stream."""
    from afa_core.fusion.averages import StaticFusion
    from afa_core.host.training.frozen_experts import HostExperts, outside_inference

    frozen = HostExperts([expert])
    frozen.load([1, 4, size, size])
    fusion = StaticFusion("noise average").bind(frozen.points, 1)
    text = {"c_crossattn": torch.randn(1, 77, 768), "y": None}
    latents = torch.randn(1, 4, size, size, requires_grad=True)

    def run() -> None:
        with outside_inference():
            frozen.predict(fusion, latents, torch.full((1,), 3.0), [text]).sum().backward()

    return run


def bench_training(size: int = 32, rounds: int = 5) -> list[str]:
    """A step beside the sum of the experts' own forward and input-gradient passes."""
    from afa_core.host.experts.experts import Expert

    experts = [Expert(random_unet(seed), f"model_{seed + 1}") for seed in range(2)]
    candidates = {f"expert {i}": input_gradient_pass(expert, size) for i, expert in enumerate(experts)}
    candidates["plain"] = training_pass(experts, size, checkpointing=False)
    candidates["checkpointed"] = training_pass(experts, size, checkpointing=True)
    seconds = interleaved(candidates, rounds)
    alone = [seconds[f"expert {i}"] for i in range(2)]
    plain, checkpointed = (spread(ratios(seconds[name], *alone)) for name in ("plain", "checkpointed"))
    return [
        f"A training step at {size}x{size} / the sum of the experts' own forward and input-gradient passes: {plain}; with "
        f"`gradient_checkpointing` {checkpointed}. The aggregators' weights are float32, as the trainer keeps them."
    ]
