"""A real ComfyUI in this process with the base and one set of experts, frozen, as training and tables use them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from afa_core.aggregator.config import AggregatorConfig
from tests.support.comfy.inprocess import Host

from .. import aggregator
from . import checkpoints

if TYPE_CHECKING:
    from afa_core.host.training.frozen_experts import HostExperts

BATCH = 16
SHAPE = [BATCH, 4, 8, 16]


@dataclass
class World:
    """alone: models that are evaluated by themselves, by name; experts: those of the ensemble, people first."""

    running: Host
    kind: str
    alone: dict[str, HostExperts]
    experts: HostExperts

    @property
    def aggregators(self) -> Path:
        return Path(self.running.base, "models", "afa")

    def config(self, **changes) -> AggregatorConfig:
        """Of a new aggregator for these experts, as wide as that of the single pictures."""
        first = self.experts.experts[0]
        network, shape = first.patcher.model, aggregator.SETTINGS
        return AggregatorConfig(
            architecture=first.architecture_name,
            channels=tuple(point.channels for point in first.points),
            num_experts=len(self.experts.experts),
            text_width=first.architecture.text_width(network),
            time_width=first.architecture.time_width(network),
            **{name: shape[name] for name in ("hidden_size", "num_layers", "num_heads")},
            **changes,
        )


def start(kind: str) -> World:
    """kind: "near" or "far"."""
    running = aggregator.host()
    from afa_core.host.experts.experts import Expert
    from afa_core.host.training.frozen_experts import HostExperts, outside_inference

    names = checkpoints.expert_names(kind)
    checkpoints.ensure(Path(running.base, "models", "checkpoints"), [checkpoints.BASE, *names])
    loaded = {name: model for name, (model, *_) in zip(names, aggregator.load_experts(running, names), strict=True)}
    ((base, *_),) = aggregator.load_experts(running, [checkpoints.BASE])
    # A merge patches its first model's network in place, so it gets models of its own.
    apart = [model for model, *_ in aggregator.load_experts(running, names)]
    (merged,) = running.call("AFAMergeModels", **{f"model_{i}": model for i, model in enumerate(apart, start=1)})
    with outside_inference():
        alone = {
            name: HostExperts([Expert(model, name)]) for name, model in (("base", base), ("weighted merge", merged))
        }
        experts = HostExperts([Expert(model, name) for name, model in loaded.items()])
        for frozen in (*alone.values(), experts):
            frozen.load(SHAPE)
    return World(running, kind, alone, experts)
