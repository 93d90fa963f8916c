"""Lumina 2 and Z-Image: prompt and picture are refined each by itself, then joined in one sequence."""

from __future__ import annotations

from typing import Any

from comfy.ldm.lumina.model import NextDiT
from comfy.model_base import BaseModel
from torch import Tensor

from .architecture import Inputs
from .transformer import Transformer, arguments_of, network_of
from .transformer_stream import Block


class Lumina(Transformer):
    title = "Lumina 2 and Z-Image"
    arguments = arguments_of(NextDiT.forward)
    own = {
        "c_crossattn": "context", "num_tokens": "num_tokens", "attention_mask": "attention_mask",
        "clip_text_pooled": "clip_text_pooled",
    }  # fmt: skip
    topology = ("in_channels", "patch_size", "dim", "n_layers", "cap_feat_dim", "pad_tokens_multiple")
    network = NextDiT
    block_lists = {"L": "layers"}

    def name(self, model: BaseModel) -> str:
        return "Z-Image" if model.model_config.unet_config.get("z_image_modulation") else "Lumina 2"

    def blocks(self, network: Any) -> list[Block]:
        return [Block(f"layer {i}", module, joint=True) for i, module in enumerate(network.layers)]

    def embed(self, network: Any, call: dict[str, Any], inputs: Inputs) -> tuple[Tensor, Tensor]:
        hidden, time = call["x"], call["adaln_input"]
        height, width = inputs["x"].shape[-2:]
        picture = -(-height // network.patch_size) * -(-width // network.patch_size)
        padding = -picture % (network.pad_tokens_multiple or 1)
        # What comes before the picture. Where there are reference pictures, the first half of the times is theirs.
        return time[-len(hidden) :], hidden[:, : hidden.shape[1] - picture - padding]

    def width(self, network: Any) -> int:
        return network.dim

    def time_width(self, model: BaseModel) -> int:
        return network_of(model).layers[0].adaLN_modulation[-1].in_features

    def prompt_width(self, model: BaseModel) -> int:
        return network_of(model).cap_embedder[-1].in_features
