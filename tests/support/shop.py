"""What the tests on toys of SD1.5's shape share: models that are loaded once a module, prompts, and small files."""

from __future__ import annotations

from tests.support.ensembles import ensemble, random_aggregator
from tests.support.graphs import Wires, empty_latent
from tests.support.small_files import make_controlnet, make_lora


class Shop:
    """plain: a checkpoint; copies: twice more, each with weights of its own; other: a different checkpoint."""

    def __init__(self, host, family: str = "tiny_sd15"):
        self.host = host
        self.plain, self.clip = self.load(f"{family}_a")
        self.copies = [self.load(f"{family}_a")[0] for _ in range(2)]
        self.other = self.load(f"{family}_b")[0]
        self.positive, self.negative = self.encode("a cat"), self.encode("blurry")
        self.lora = make_lora(host.base, self.plain, name=f"{family}_lora")
        self.control_net = make_controlnet(host.base, self.plain, name=f"{family}_controlnet")

    def load(self, name: str) -> tuple:
        """(model, clip)"""
        return self.host.call("CheckpointLoaderSimple", ckpt_name=f"{name}.safetensors")[:2]

    def encode(self, text: str) -> list:
        return self.host.call("CLIPTextEncode", clip=self.clip, text=text)[0]

    def wires(self, model) -> Wires:
        latent = empty_latent(self.host)
        return Wires(self.host, model, self.positive, self.negative, latent, self.lora, self.control_net)

    def twins(self):
        """An ensemble of two copies under a trained-looking aggregator."""
        return ensemble(self.host, random_aggregator(self.plain, 2), *self.copies)

    def with_lora(self, model, strength: float = 0.8, lora: str | None = None):
        return self.host.call("LoraLoaderModelOnly", model=model, lora_name=lora or self.lora, strength_model=strength)[
            0
        ]
