"""The host's U-Net (SD1.x, SD2.x, SDXL) as a stream of blocks.

Follows `UNetModel._forward` of the host line by line, so that every control net and every patch acts as
it does on a plain model. tests/host/test_unet_stream.py compares the two to the bit on the host it runs on.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from itertools import count
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import (
    UNetModel,
    apply_control,
    forward_timestep_embed,
    timestep_embedding,
)
from torch import Tensor

from ...fusion.fusion import Feature
from ...fusion.lockstep import BlockStream
from .architecture import Inputs


def time_embedding(unet: UNetModel, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
    """Timesteps [B] to the U-Net's time embedding [B, T], without SDXL's label embedding."""
    return unet.time_embed(timestep_embedding(timesteps, unet.model_channels, repeat_only=False).to(dtype))


def unet_stream(
    unet: UNetModel,
    inputs: Inputs,
    time: Tensor,
    run_block: Callable[..., Tensor] = forward_timestep_embed,
    left_out: Container[int] = (),
) -> BlockStream:
    """One expert's forward pass, block by block.

    inputs: x [B, C, H, W] as the U-Net takes it, timesteps [B], context [B, L, D], y [B, A] for SDXL, and the
    stream's own control and transformer_options: the host's code empties the one and writes into the other.
    `time` comes from `time_embedding`. `run_block` lets a trainer put a checkpoint around a block. `left_out` holds
    the fusion points whose block is not computed: None is yielded there, and a feature must be sent.
    """
    x, timesteps, context, y = (inputs[name] for name in ("x", "timesteps", "context", "y"))
    control, options = inputs["control"], inputs["transformer_options"]
    options["original_shape"] = list(x.shape)
    options["transformer_index"] = 0
    patches = options.get("patches", {})
    writes = control is not None or any(patches.values())

    def keep(sent: Feature, own: Feature) -> Any:
        """What this stream may write into: control and patches do, and another expert may hold `sent` too."""
        if sent is None or sent is own:
            return sent
        return sent.to(x.dtype, copy=writes)

    points = count()

    def passes(block, part: str) -> bool:
        """Whether the block that comes now is left out; counts, and uses up, what the host would."""
        if next(points) not in left_out:
            return False
        options["transformer_index"] += sum(isinstance(layer, SpatialTransformer) for layer in block)
        if part != "output" and control and control.get(part):
            control[part].pop()
        return True

    if writes:  # the other experts, and the fusion, go on reading these
        x, time, context = x.clone(), time.clone(), context.clone()
    emb = time
    for patch in patches.get("emb_patch", ()):
        emb = patch(emb, unet.model_channels, options)
    if unet.num_classes is not None:
        emb = emb + unet.label_emb(y)

    h: Any = x
    skips = []
    for i, block in enumerate(unet.input_blocks):
        options["block"] = ("input", i)
        if passes(block, "input"):
            h = None
        else:
            h = apply_control(run_block(block, h, emb, context, options), control, "input")
            for patch in patches.get("input_block_patch", ()):
                h = patch(h, options)
        h = keep((yield h), h)
        skips.append(h)
        for patch in patches.get("input_block_patch_after_skip", ()):
            h = patch(h, options)

    options["block"] = ("middle", 0)
    if unet.middle_block is not None and passes(unet.middle_block, "middle"):
        h = None
    else:
        if unet.middle_block is not None:
            h = run_block(unet.middle_block, h, emb, context, options)
        h = apply_control(h, control, "middle")
        for patch in patches.get("middle_block_after_patch", ()):
            h = patch(
                {"h": h, "x": x, "emb": emb, "context": context, "y": y, "timesteps": timesteps,
                 "transformer_options": options}
            )["h"]  # fmt: skip
    if unet.middle_block is not None:
        h = keep((yield h), h)

    for i, block in enumerate(unet.output_blocks):
        options["block"] = ("output", i)
        skip = apply_control(skips.pop(), control, "output")
        if passes(block, "output"):
            h = None
        else:
            for patch in patches.get("output_block_patch", ()):
                h, skip = patch(h, skip, options)
            if skip is not None:  # a patch has joined the two itself
                h = torch.cat([h, skip], dim=1)
            del skip
            h = run_block(block, h, emb, context, options, skips[-1].shape if skips else None)
        if skips:
            h = keep((yield h), h)
    yield None if h is None else unet.out(h.type(x.dtype))
