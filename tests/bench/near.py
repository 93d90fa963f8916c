"""The scenes' near experts as the bench needs them: really trained, with pairs that neither they nor their aggregator learnt."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tests.pocket.scenes import checkpoints, datasets, models
from tests.pocket.scenes.world import BATCH, SHAPE, host

HELD_OUT, KNOWN = "watched_unseen", "watched_experts_only"
"""Lists: losses are measured on the first; the second is what the aggregator's mean shares come from."""


@dataclass
class Near:
    """running: the host in this process; loaded: (model, clip, vae) of every expert."""

    running: Any
    loaded: list[tuple]

    @classmethod
    def start(cls) -> Near:
        running = host()
        return cls(running, checkpoints.load(running, checkpoints.expert_names("near")))

    @cached_property
    def experts(self) -> list:
        from afa_core.host.experts.experts import Expert

        names = checkpoints.expert_names("near")
        return [Expert(model, name) for (model, _, _), name in zip(self.loaded, names, strict=True)]

    @cached_property
    def frozen(self):
        """The experts for training and losses."""
        from afa_core.host.training.frozen_experts import HostExperts

        frozen = HostExperts(self.experts)
        frozen.load(SHAPE)
        return frozen

    @cached_property
    def file(self):
        """The committed aggregator, with its mean shares by point and noise level."""
        from afa_core.aggregator.file import load_aggregator
        from afa_core.host.training.frozen_experts import outside_inference

        file = load_aggregator(models.WEIGHTS / "aggregator.safetensors")
        task = self.task(file.config)
        task.module.load_state_dict(file.state)
        with outside_inference():
            return replace(file, routing=task.measure(datasets.listed(KNOWN).batches(BATCH)))

    def task(self, config, expert_dropout: float = 0.0, seed: int = 0):
        from afa_core.training.tasks.aggregator import AggregatorSettings, AggregatorTask

        return AggregatorTask(self.frozen, config, [], AggregatorSettings(expert_dropout=expert_dropout), seed)

    def module(self, **changes):
        """The committed aggregator as a float32 module, its configuration changed."""
        from afa_core.aggregator.sabw import Aggregator

        module = Aggregator(replace(self.file.config, **changes))
        module.load_state_dict(self.file.state)
        return module

    @cached_property
    def shipped(self):
        return self.module()

    @cached_property
    def held_out(self) -> datasets.Scenes:
        return datasets.listed(HELD_OUT)

    def draws(self, looks: int) -> Iterator[tuple]:
        """(batch, draw) over every held-out pair, the batches sorted by noise level."""
        from afa_core.training.draw import held_out_draw

        items = list(range(len(self.held_out.drawn)))
        for look in range(looks):
            levels = held_out_draw(self.held_out.batch(items), look).levels
            order = [items[place] for place in levels.argsort().tolist()]
            for start in range(0, len(order), BATCH):
                batch = self.held_out.batch(order[start : start + BATCH])
                yield batch, held_out_draw(batch, look)

    def loss(self, fusion_of: Callable[[Any, Any], Any], looks: int) -> Tensor:
        """Loss of every held-out pair and look; fusion_of(batch, draw) is what the batch is fused by."""
        from afa_core.host.training.frozen_experts import outside_inference
        from afa_core.training.objective import sample_loss

        with outside_inference(), torch.no_grad():
            rows = [sample_loss(self.frozen, fusion_of(b, d), b, d) for b, d in self.draws(looks)]
        losses = torch.cat(rows)
        print(f"loss {losses.mean().item():.5f}", file=sys.stderr, flush=True)
        return losses
