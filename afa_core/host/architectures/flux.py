"""Flux.1, Flux.2 and Chroma: blocks with a stream for the picture and one for the text, then blocks that join them."""

from __future__ import annotations

from typing import Any

from comfy.ldm.chroma.model import Chroma as ChromaNetwork
from comfy.ldm.flux.model import Flux as FluxNetwork
from comfy.model_base import BaseModel
from torch import Tensor

from .architecture import Inputs
from .transformer import TIME_WIDTH, Transformer, arguments_of, network_of, sinusoid
from .transformer_stream import Block


class Flux(Transformer):
    title = "Flux"
    arguments = arguments_of(FluxNetwork.forward)
    own = {"c_crossattn": "context", "y": "y", "guidance": "guidance", "attention_mask": "attention_mask"}
    topology = (
        "image_model", "in_channels", "out_channels", "patch_size", "hidden_size", "context_in_dim", "depth",
        "depth_single_blocks",
    )  # fmt: skip
    network = FluxNetwork
    block_lists = {"D": "double_blocks", "S": "single_blocks"}

    def name(self, model: BaseModel) -> str:
        return "Flux.2" if self._has_shared_modulation(network_of(model)) else "Flux.1"

    def blocks(self, network: Any) -> list[Block]:
        double = [Block(f"double {i}", m, ("double_block", i)) for i, m in enumerate(network.double_blocks)]
        single = [Block(f"single {i}", m, ("single_block", i), True) for i, m in enumerate(network.single_blocks)]
        return double + single

    def embed(self, network: Any, call: dict[str, Any], inputs: Inputs) -> tuple[Tensor, Tensor]:
        text = call["txt"].clone()  # the host's blocks write into it
        vector = call["vec"]
        # A tuple: every block's modulation, already made of the time vector. Twice as long: a half for references.
        time = vector[: len(text)] if isinstance(vector, Tensor) else sinusoid(inputs)
        return time, text

    def width(self, network: Any) -> int:
        return network.hidden_size

    def latent_channels(self, network: Any) -> int:
        return network.out_channels // network.patch_size**2

    def reads_guidance(self, model: BaseModel) -> bool:
        return bool(model.model_config.unet_config.get("guidance_embed"))

    def time_width(self, model: BaseModel) -> int:
        network = network_of(model)
        return TIME_WIDTH if self._has_shared_modulation(network) else network.hidden_size

    def prompt_width(self, model: BaseModel) -> int:
        return network_of(model).params.context_in_dim

    def _has_shared_modulation(self, network: Any) -> bool:
        return getattr(network.params, "global_modulation", False)


class Chroma(Flux):
    title = "Chroma"
    arguments = arguments_of(ChromaNetwork.forward)
    network = ChromaNetwork

    def name(self, model: BaseModel) -> str:
        return self.title

    def _has_shared_modulation(self, network: Any) -> bool:
        return True
