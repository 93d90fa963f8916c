"""A real ComfyUI in this process with the scenes' base and one set of experts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.pocket import assemble, common
from tests.pocket.scenes import checkpoints, models
from tests.pocket.scenes.world import host
from tests.support.comfy.inprocess import Host

from .budget import Budget
from .oracle import PlaceOracle
from .store import Store

FOLDER = common.WORK / "tables"
BASE = checkpoints.BASE
KINDS = ("near", "far")
WIDTH, HEIGHT = 2 * common.SIZE, common.SIZE


@dataclass
class World:
    """The text encoder and the VAE are the same for every row. kind: of the experts, "near" or "far"."""

    running: Host
    budget: Budget
    store: Store
    kind: str
    oracle: PlaceOracle = field(default_factory=PlaceOracle)
    _texts: dict[str, Any] = field(default_factory=dict)

    def of_kind(self, kind: str) -> World:
        return replace(self, kind=kind)

    @property
    def experts(self) -> tuple[str, ...]:
        """The experts' checkpoints, people first."""
        return tuple(checkpoints.expert_names(self.kind))

    @cached_property
    def digest(self) -> str:
        """Of all weights that rows without training depend on."""
        parts = [models.expert_path(self.kind, domain) for domain in common.DOMAINS]
        shared = [models.WEIGHTS / "base.safetensors", models.WEIGHTS / "text_encoder.safetensors"]
        return assemble.digest([*shared, common.WEIGHTS / "vae.safetensors", *parts])

    @property
    def aggregators(self) -> Path:
        return Path(self.running.base, "models", "afa")

    def call(self, node: str, **inputs) -> tuple:
        return self.running.call(node, **inputs)

    def load(self, name: str) -> tuple:
        """(model, clip, vae) of a checkpoint, fresh: nothing that a row does to weights reaches another."""
        return self.call("CheckpointLoaderSimple", ckpt_name=f"{name}.safetensors")[:3]

    def sockets(self, names: tuple[str, ...] = ()) -> dict[str, Any]:
        """Checkpoints on model_1, model_2, ..., by default the experts."""
        return {f"model_{i}": self.load(name)[0] for i, name in enumerate(names or self.experts, start=1)}

    def empty_latent(self, count: int):
        return self.call("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=count)[0]

    @cached_property
    def _encoders(self) -> tuple:
        return self.load(BASE)[1:]

    @property
    def clip(self):
        return self._encoders[0]

    @property
    def vae(self):
        return self._encoders[1]

    def text(self, prompt: str):
        """The conditioning of a prompt, encoded once."""
        if prompt not in self._texts:
            (self._texts[prompt],) = self.call("CLIPTextEncode", clip=self.clip, text=prompt)
        return self._texts[prompt]


def trained_kinds() -> list[str]:
    """The sets of experts whose weights are there."""
    return [kind for kind in KINDS if all(models.expert_path(kind, domain).exists() for domain in common.DOMAINS)]


def start(budget: Budget) -> World:
    """Of the first set of experts."""
    running = host()
    names = [BASE, *(name for kind in trained_kinds() for name in checkpoints.expert_names(kind))]
    checkpoints.ensure(Path(running.base, "models", "checkpoints"), names)
    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)
    return World(running, budget, Store(FOLDER / "rows", {}), trained_kinds()[0])
