"""A real ComfyUI in this process with the base and one set of experts, frozen, as training and tables use them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afa_core.aggregator.config import AggregatorConfig
from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.inprocess import Host

from .. import common
from ..dit import network
from . import checkpoints, models

if TYPE_CHECKING:
    from afa_core.host.training.frozen_experts import HostExperts

BATCH = 16
SHAPE = [BATCH, 4, 8, 16]
KINDS = (*models.KINDS, "dit")
EXTRAPOLATION = 1.5
"""Of the merge that goes beyond the experts, away from their base."""
EXTRAPOLATED = f"base + {EXTRAPOLATION} (merge - base)"
SIZES = {"hidden_size": 64, "num_layers": 1, "num_heads": 4}
"""Of every aggregator."""


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

    @property
    def weights(self) -> Path:
        """The folder that an aggregator of these experts is committed to."""
        return network.WEIGHTS if self.kind == "dit" else models.WEIGHTS

    def config(self, every: int = 0, **changes) -> AggregatorConfig:
        """Of a new aggregator for these experts.

        every: so manieth blocks have a fusion point, and the last one; 0: those that the family has by default
        """
        found = self.experts.experts[0].aggregator_fields
        if every:
            last = len(found["channels"]) - 1
            found["fused"] = tuple(i for i in range(last + 1) if i % every == every - 1 or i >= last - 1)
        return AggregatorConfig(num_experts=len(self.experts.experts), **{**found, **SIZES, **changes})


def host() -> Host:
    """ComfyUI in this process, with the pack and the family of the small checkpoints, in .pocket/."""
    running = Host(make_base(common.WORK / "base"))
    running.load_pack()
    return running


def start(kind: str) -> World:
    """kind: of KINDS."""
    running = host()
    from afa_core.host.experts.experts import Expert
    from afa_core.host.training.frozen_experts import HostExperts, outside_inference

    alone, experts = _loras(running) if kind == "lora" else _checkpoints(running, kind)
    with outside_inference():
        world = World(
            running,
            kind,
            {name: HostExperts([Expert(model, name)]) for name, model in alone.items()},
            HostExperts([Expert(model, name) for name, model in experts.items()]),
        )
        for frozen in (*world.alone.values(), world.experts):
            frozen.load(SHAPE)
    return world


def _checkpoints(running: Host, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(models that are evaluated alone, experts), by name."""
    names = checkpoints.expert_names(kind)
    base = _base(running, checkpoints.base_name(kind))
    loaded = {name: model for name, (model, *_) in zip(names, checkpoints.load(running, names), strict=True)}

    def merged(**widgets) -> Any:
        # A merge patches its first model's network in place, so it gets models of its own.
        apart = [model for model, *_ in checkpoints.load(running, names)]
        return running.call("AFAMergeModels", **{f"model_{i}": m for i, m in enumerate(apart, start=1)}, **widgets)[0]

    merges = {"weighted merge": merged(), EXTRAPOLATED: merged(base=base, extrapolation=EXTRAPOLATION)}
    return {"base": base, **merges}, loaded


def _loras(running: Host) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same of LoRAs, which share the base as experts. All of them stacked is what they are put together by without an ensemble.

    At equal strengths of sum 1 a stack is the weighted merge.
    """
    for domain in common.DOMAINS:
        path = models.expert_path("lora", domain)
        shutil.copy(path, Path(running.base, "models", "loras", path.name))

    def patched(model: Any, strength: float, domains: Sequence[str]) -> Any:
        for domain in domains:
            name = models.expert_path("lora", domain).name
            (model,) = running.call("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength)
        return model

    stacks = {f"all stacked at {name}": strength for name, strength in (("1/3", 1 / 3), ("1", 1.0))}
    stacked = {name: patched(_base(running), strength, common.DOMAINS) for name, strength in stacks.items()}
    base = _base(running)
    experts = {f"lora_{domain}": patched(base, 1.0, [domain]) for domain in common.DOMAINS}
    return {"base": _base(running), **stacked}, experts


def _base(running: Host, name: str = checkpoints.BASE) -> Any:
    """The base from its file, with weights of its own."""
    ((base, *_),) = checkpoints.load(running, [name])
    return base
