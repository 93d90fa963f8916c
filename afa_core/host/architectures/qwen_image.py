"""Qwen-Image: every block has a stream for the picture and one for the text."""

from __future__ import annotations

from typing import Any

from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from comfy.model_base import BaseModel
from torch import Tensor

from .architecture import Inputs
from .transformer import Transformer, arguments_of, network_of
from .transformer_stream import Block


class QwenImage(Transformer):
    title = "Qwen-Image"
    has_frames = True
    arguments = arguments_of(QwenImageTransformer2DModel.forward)
    own = {"c_crossattn": "context", "attention_mask": "attention_mask"}
    topology = ("in_channels", "num_layers")
    network = QwenImageTransformer2DModel
    block_lists = {"B": "transformer_blocks"}

    def blocks(self, network: Any) -> list[Block]:
        return [Block(f"block {i}", m, ("double_block", i)) for i, m in enumerate(network.transformer_blocks)]

    def embed(self, network: Any, call: dict[str, Any], inputs: Inputs) -> tuple[Tensor, Tensor]:
        return call["vec"][: len(call["txt"])], call["txt"]  # a second half of the times is that of references

    def width(self, network: Any) -> int:
        return network.inner_dim

    def prompt_width(self, model: BaseModel) -> int:
        return network_of(model).txt_in.in_features
