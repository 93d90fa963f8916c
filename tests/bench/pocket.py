"""The pocket experts as the bench needs them: really trained, with pictures that nothing was trained on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tests.pocket import aggregator, common, folder

BATCH = 32


@dataclass
class Pocket:
    """running: the host in this process; loaded: (model, clip, vae) of every expert."""

    running: Any
    loaded: list[tuple]

    @classmethod
    def start(cls) -> Pocket:
        running = aggregator.host()
        return cls(running, aggregator.load_experts(running))

    @property
    def names(self) -> list[str]:
        return aggregator.MODELS[: len(self.loaded)]

    @cached_property
    def file(self):
        """The shipped aggregator."""
        from afa_core.aggregator.file import load_aggregator

        return load_aggregator(common.WEIGHTS / "aggregator.safetensors")

    def module(self, **changes):
        """The shipped aggregator as a float32 module, its configuration changed."""
        from afa_core.aggregator.sabw import Aggregator

        module = Aggregator(replace(self.file.config, **changes))
        module.load_state_dict({key: tensor.float() for key, tensor in self.file.state.items()})
        return module

    @cached_property
    def shipped(self):
        return self.module()

    @cached_property
    def frozen(self):
        """The experts for training and losses."""
        from afa_core.host.experts.experts import Expert
        from afa_core.host.training.frozen_experts import HostExperts

        experts = [Expert(model, name) for (model, _, _), name in zip(self.loaded, self.names, strict=True)]
        frozen = HostExperts(experts)
        frozen.load([BATCH, 4, 8, 8])
        return frozen

    def dataset(self, pictures):
        from afa_core.host.experts.experts import Expert
        from afa_core.host.training.encoding import DatasetSettings, prepare_dataset
        from afa_core.training.data.prompt_folder import read_prompt_folder

        experts = [Expert(model, name) for (model, _, _), name in zip(self.loaded, self.names, strict=True)]
        settings = DatasetSettings(resolution=common.SIZE, batch_size=16, held_out=0.0)
        _, clip, vae = self.loaded[0]
        return prepare_dataset(experts, clip, vae, read_prompt_folder(pictures), settings)

    @cached_property
    def held_out(self):
        return self.dataset(folder.held_out())

    def draws(self, looks: int) -> Iterator[tuple]:
        """(batch, draw) over every other held-out picture, the batches sorted by noise level."""
        from afa_core.training.draw import held_out_draw

        items = list(range(0, len(self.held_out.items), 2))
        for look in range(looks):
            levels = held_out_draw(self.held_out.batch_of(items), look).levels
            order = [items[place] for place in levels.argsort().tolist()]
            for start in range(0, len(order), BATCH):
                batch = self.held_out.batch_of(order[start : start + BATCH])
                yield batch, held_out_draw(batch, look)

    def loss(self, fusion_of: Callable[[Any, Any], Any], looks: int) -> Tensor:
        """Loss of every held-out picture and look; fusion_of(batch, draw) is what the batch is fused by."""
        from afa_core.host.training.frozen_experts import outside_inference
        from afa_core.training.objective import sample_loss

        with outside_inference(), torch.no_grad():
            rows = [sample_loss(self.frozen, fusion_of(b, d), b, d) for b, d in self.draws(looks)]
        losses = torch.cat(rows)
        print(f"loss {losses.mean().item():.5f}", file=sys.stderr, flush=True)
        return losses
