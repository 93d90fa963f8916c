"""A real ComfyUI in this process with the pocket checkpoints, and the aggregator that ships for them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.pocket import aggregator, assemble, common
from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.inprocess import Host

from .budget import Budget
from .store import Store, file_digest

FOLDER = common.WORK / "tables"
EXPERTS = tuple(aggregator.MODELS)
BASE = "pocket_base"


SHIPPED = "shipped.safetensors"


@dataclass
class World:
    """The text encoder and the VAE are the same for every row."""

    running: Host
    budget: Budget
    store: Store
    _texts: dict[str, Any] = field(default_factory=dict)

    def call(self, node: str, **inputs) -> tuple:
        return self.running.call(node, **inputs)

    def load(self, name: str) -> tuple:
        """(model, clip, vae) of a pocket checkpoint, fresh: nothing that a row does to weights reaches another."""
        return self.call("CheckpointLoaderSimple", ckpt_name=f"{name}.safetensors")[:3]

    def sockets(self, names: tuple[str, ...] = EXPERTS) -> dict[str, Any]:
        """The checkpoints on model_1, model_2, ..."""
        return {f"model_{i}": self.load(name)[0] for i, name in enumerate(names, start=1)}

    @cached_property
    def _encoders(self) -> tuple:
        return self.load(EXPERTS[0])[1:]

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


def start(budget: Budget) -> World:
    base = make_base(FOLDER / "base")
    assemble.ensure(base / "models" / "checkpoints")
    running = Host(base)
    running.load_pack()
    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)
    shutil.copy(common.WEIGHTS / "aggregator.safetensors", base / "models" / "afa" / SHIPPED)
    return World(running, budget, Store(FOLDER / "rows", {"experts": assemble.digest()}))


def shipped_digest() -> str:
    return file_digest(common.WEIGHTS / "aggregator.safetensors")
