"""The blocks of a U-Net of Stable Diffusion, from its configuration alone: fusion points, and names for merging."""

from __future__ import annotations

from ...fusion.points import FusionPoint


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
    inputs = [(model_channels, 1)]
    for level, width in enumerate(widths):
        inputs += [(width, 2**level)] * num_res_blocks[level]
        if level < len(widths) - 1:
            inputs.append((width, 2 ** (level + 1)))
    outputs = []
    for level in reversed(range(len(widths))):
        outputs += [(widths[level], 2**level)] * (num_res_blocks[level] + 1)
        if level:  # the last block of a level carries its upsampler
            outputs[-1] = (widths[level], 2 ** (level - 1))
    named = [(f"input {i}", *block) for i, block in enumerate(inputs)]
    if has_middle:
        named.append(("middle", widths[-1], 2 ** (len(widths) - 1)))
    named += [(f"output {i}", *block) for i, block in enumerate(outputs[:-1])]
    named.append(("prediction", out_channels, 1))
    return [FusionPoint(i, *each) for i, each in enumerate(named)]


def unet_merge_blocks(inputs: int, outputs: int) -> dict[str, tuple[str, ...]]:
    """IN00 ... M00 ... OUT11, each with the prefixes of the network's keys that belong to it.

    SD1.x and SD2.x have 12 input and 12 output blocks, SDXL 9 and 9. As in supermerger the time and
    label embeddings follow the first input block, and the last convolution the last output block.
    """
    blocks: dict[str, tuple[str, ...]] = {f"IN{i:02}": (f"input_blocks.{i}.",) for i in range(inputs)}
    blocks["IN00"] += ("time_embed.", "label_emb.")
    blocks["M00"] = ("middle_block.",)
    blocks |= {f"OUT{i:02}": (f"output_blocks.{i}.",) for i in range(outputs)}
    blocks[f"OUT{outputs - 1:02}"] += ("out.",)
    return blocks
