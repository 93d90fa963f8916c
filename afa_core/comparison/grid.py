"""A labelled grid of pictures, readable whatever the size of the pictures."""

from __future__ import annotations

import math
import textwrap

import torch
from torch import Tensor

SMALLEST, LARGEST = 192, 512
"""The side of a picture in the grid, in pixels: smaller ones are enlarged without smoothing, larger ones reduced."""

GAP = 6
INK = "#222222"


def picture_grid(pictures: list[list[Tensor]], rows: list[str], columns: list[str]) -> Tensor:
    """Pictures [H, W, 3] in 0..1 of one size as one [1, H, W, 3], row names at the left, column names above."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = (_shown(side, max(pictures[0][0].shape[:2])) for side in pictures[0][0].shape[:2])
    size = max(16, min(height, width) // 14)
    font = ImageFont.load_default(size)
    names = ["\n".join(textwrap.wrap(name, 16)) for name in rows]
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = math.ceil(max(draw.multiline_textbbox((0, 0), name, font)[2] for name in names)) + 3 * GAP
    top = size + 2 * GAP
    sheet = Image.new("RGB", (left + len(columns) * (width + GAP), top + len(rows) * (height + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((left + column * (width + GAP) + width / 2, top / 2), name, INK, font, "mm")
    for row, name in enumerate(names):
        y = top + row * (height + GAP)
        draw.multiline_text((left - 2 * GAP, y + height / 2), name, INK, font, "rm", align="right")
        for column, picture in enumerate(pictures[row]):
            sheet.paste(_scaled(picture, (width, height)), (left + column * (width + GAP), y))
    pixels = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8)
    return pixels.reshape(1, sheet.height, sheet.width, 3).float() / 255


def _shown(side: int, longest: int) -> int:
    """A side as the grid shows it, where the picture's longer side is `longest`."""
    if longest < SMALLEST:
        return side * math.ceil(SMALLEST / longest)
    return round(side * min(1.0, LARGEST / longest))


def _scaled(picture: Tensor, size: tuple[int, int]):
    from PIL import Image

    pixels = (picture.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    image = Image.fromarray(pixels[..., :3])
    filters = Image.Resampling.NEAREST if size[0] > image.width else Image.Resampling.LANCZOS
    return image if image.size == size else image.resize(size, filters)
