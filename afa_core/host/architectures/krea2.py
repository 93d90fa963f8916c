"""Krea 2: prompt and picture go through every block as one sequence. Hosts before 0.26 do not have it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from comfy.model_base import BaseModel
from torch import Tensor

from .architecture import Inputs
from .transformer import TIME_WIDTH, Transformer, arguments_of, network_of, sinusoid
from .transformer_stream import Block

try:
    NETWORK = import_module("comfy.ldm.krea2.model").SingleStreamDiT
except ImportError:
    NETWORK = None


class Krea2(Transformer):
    title = "Krea 2"
    has_frames = True
    arguments = arguments_of(NETWORK.forward) if NETWORK else ()
    own = {"c_crossattn": "context", "attention_mask": "attention_mask"}
    topology = ("features", "channels", "layers", "heads", "kvheads", "txtlayers", "txtdim")
    network = NETWORK
    block_lists = {"B": "blocks"}

    def blocks(self, network: Any) -> list[Block]:
        return [Block(f"block {i}", module, joint=True) for i, module in enumerate(network.blocks)]

    def embed(self, network: Any, call: dict[str, Any], inputs: Inputs) -> tuple[Tensor, Tensor]:
        # Where the picture begins. Hosts before 0.29 do not say; there no patch can put tokens before the text's.
        text = call["transformer_options"].get("img_slice", inputs["context"].shape[1:])[0]
        return sinusoid(inputs), call["x"][:, :text]

    def width(self, network: Any) -> int:
        return network.first.out_features

    def patch_size(self, network: Any) -> int:
        return network.patch

    def latent_channels(self, network: Any) -> int:
        return network.channels

    def time_width(self, model: BaseModel) -> int:
        return TIME_WIDTH

    def prompt_width(self, model: BaseModel) -> int:
        network = network_of(model)
        return network.txtlayers * network.txtdim
