"""Cosmos-Predict2 and Anima: pictures alone go through the blocks, as single frames; they read the text."""

from __future__ import annotations

from typing import Any

from comfy.ldm.cosmos.predict2 import MiniTrainDIT
from comfy.model_base import BaseModel
from einops import rearrange
from torch import Tensor

from .architecture import Inputs
from .fused_rope import make_differentiable
from .transformer import Transformer, arguments_of, network_of
from .transformer_stream import Block

make_differentiable()


class Cosmos(Transformer):
    title = "Cosmos-Predict2 and Anima"
    has_frames = True
    joint_text = False
    text_adapter = "llm_adapter"
    arguments = arguments_of(MiniTrainDIT.forward)
    own = {"c_crossattn": "context"}
    topology = (
        "in_channels",
        "out_channels",
        "patch_spatial",
        "model_channels",
        "num_blocks",
        "crossattn_emb_channels",
    )
    block_lists = {"B": "blocks"}

    def matches(self, model: BaseModel) -> bool:
        return isinstance(network_of(model), MiniTrainDIT) and not getattr(model, "image_to_video", False)

    def name(self, model: BaseModel) -> str:
        return "Anima" if self.adapts_text(model) else "Cosmos-Predict2"

    def blocks(self, network: Any) -> list[Block]:
        return [Block(f"block {i}", module) for i, module in enumerate(network.blocks)]

    def embed(self, network: Any, call: dict[str, Any], inputs: Inputs) -> tuple[Tensor, Tensor]:
        return call["emb_B_T_D"][:, 0], call["crossattn_emb"]

    def feature(self, hidden: Tensor, start: int, size: tuple[int, int]) -> Tensor:
        return rearrange(hidden[:, 0], "b h w c -> b c h w")

    def replaced(self, hidden: Tensor, start: int, feature: Tensor) -> Tensor:
        return rearrange(feature, "b c h w -> b 1 h w c").contiguous()  # the host writes into no hidden state

    def width(self, network: Any) -> int:
        return network.model_channels

    def patch_size(self, network: Any) -> int:
        return network.patch_spatial

    def text_width(self, model: BaseModel) -> int:
        return network_of(model).blocks[0].cross_attn.context_dim
