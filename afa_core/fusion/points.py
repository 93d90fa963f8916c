"""Fusion points: the places of a U-Net where the experts' features become one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FusionPoint:
    """One place of fusion (algorithm.md section 1; AFA section 3.2).

    index:    number of the aggregator that belongs to it
    name:     "input 0" ... "middle", "output 0" ..., and "prediction" for the experts' outputs
    channels: C of the features [B, C, H, W] that meet here
    stride:   size of the latent divided by the size of these features
    """

    index: int
    name: str
    channels: int
    stride: int

    @property
    def is_prediction(self) -> bool:
        return self.name == "prediction"


def unet_points(
    model_channels: int,
    channel_mult: list[int],
    num_res_blocks: list[int],
    out_channels: int,
    has_middle: bool = True,
) -> list[FusionPoint]:
    """The fusion points of a U-Net of the Stable Diffusion family, in the order of its forward pass.

    Every input block (conv_in included), the middle block, every output block but the last, and the
    prediction. SD1.5 has 25, SDXL 19.
    """
    widths = [model_channels * mult for mult in channel_mult]
    blocks = [("input", model_channels, 1)]
    for level, width in enumerate(widths):
        blocks += [("input", width, 2**level)] * num_res_blocks[level]
        if level < len(widths) - 1:
            blocks.append(("input", width, 2 ** (level + 1)))
    middle = [("middle", widths[-1], 2 ** (len(widths) - 1))] if has_middle else []
    outputs = []
    for level in reversed(range(len(widths))):
        outputs += [("output", widths[level], 2**level)] * (num_res_blocks[level] + 1)
        if level:  # the last block of a level carries its upsampler
            outputs[-1] = ("output", widths[level], 2 ** (level - 1))
    named = [(f"input {i}", c, s) for i, (_, c, s) in enumerate(blocks)]
    named += [("middle", c, s) for _, c, s in middle]
    named += [(f"output {i}", c, s) for i, (_, c, s) in enumerate(outputs[:-1])]
    named.append(("prediction", out_channels, 1))
    return [FusionPoint(i, name, channels, stride) for i, (name, channels, stride) in enumerate(named)]
