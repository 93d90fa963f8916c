"""The U-Nets of Stable Diffusion: SD1.x, SD2.x, SDXL."""

from __future__ import annotations

from collections.abc import Container, Mapping
from contextvars import copy_context
from functools import partial
from typing import Any

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel, forward_timestep_embed
from comfy.model_base import BaseModel
from comfy.model_detection import unet_config_from_diffusers_unet
from comfy.utils import unet_to_diffusers
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...fusion.fusion import Embeddings
from ...fusion.lockstep import BlockStream, absent
from ...fusion.points import FusionPoint
from .architecture import Architecture, Inputs
from .unet_layout import unet_merge_blocks, unet_points
from .unet_stream import time_embedding, unet_stream

BY_TEXT_WIDTH = {768: "SD1.x", 1024: "SD2.x", 2048: "SDXL", 1280: "SDXL refiner"}


class UNet(Architecture):
    title = "U-Nets (SD1.x, SD2.x, SDXL)"
    arguments = ("x", "timesteps", "context", "y", "control", "transformer_options")
    own = {"c_crossattn": "context", "y": "y"}
    topology = (
        "in_channels", "out_channels", "model_channels", "channel_mult", "num_res_blocks", "transformer_depth",
        "transformer_depth_middle", "transformer_depth_output", "context_dim", "adm_in_channels",
    )  # fmt: skip
    runs_compiled_blocks = True

    def matches(self, model: BaseModel) -> bool:
        config = model.model_config.unet_config
        video = config.get("use_temporal_attention") or config.get("use_temporal_resblock")
        return type(model.diffusion_model) is UNetModel and not video

    def name(self, model: BaseModel) -> str:
        width = self.text_width(model)
        return BY_TEXT_WIDTH.get(width, f"U-Net with text width {width}")

    def points(self, model: BaseModel) -> list[FusionPoint]:
        unet = model.diffusion_model
        return unet_points(
            unet.model_channels, list(unet.channel_mult), list(unet.num_res_blocks), unet.out_channels,
            has_middle=unet.middle_block is not None,
        )  # fmt: skip

    def diffusers_names(self, shapes: Mapping[str, Tensor]) -> dict[str, str] | None:
        config = unet_config_from_diffusers_unet(dict(shapes))
        return None if config is None else unet_to_diffusers(config)

    def text_width(self, model: BaseModel) -> int:
        return model.model_config.unet_config.get("context_dim", 0)

    def time_width(self, model: BaseModel) -> int:
        return model.diffusion_model.time_embed[-1].out_features

    def stream(
        self, model: BaseModel, inputs: Inputs, left_out: Container[int] = (), checkpointing: bool = False
    ) -> tuple[BlockStream, Embeddings]:
        unet = model.diffusion_model
        time = time_embedding(unet, inputs["timesteps"], inputs["x"].dtype)
        embeddings = Embeddings(time, inputs["context"])
        if all(point.index in left_out for point in self.points(model)):
            return absent(), embeddings
        run_block = checkpointed_block if checkpointing else forward_timestep_embed
        return unet_stream(unet, inputs, time, run_block, left_out), embeddings

    def merge_blocks(self, model: BaseModel) -> dict[str, tuple[str, ...]]:
        unet = model.diffusion_model
        return unet_merge_blocks(len(unet.input_blocks), len(unet.output_blocks))


def checkpointed_block(
    block, h: Tensor, emb: Tensor, context: Tensor, options: dict[str, Any], output_shape=None
) -> Tensor:
    """A U-Net block that keeps its input alone and is run again in the backward pass."""
    before = dict(options)

    def run(h: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        options.update(before)  # the host counts transformers here; a second run must count the same ones
        return forward_timestep_embed(block, h, emb, context, options, output_shape)

    # The second run finds the context variables of the first: what was set around this expert's turn.
    again = partial(copy_context().run, run)
    return checkpoint(again, h, emb, context, use_reentrant=False, preserve_rng_state=False)
