"""Aspect-ratio buckets: every picture keeps its shape as nearly as a batch of equal sizes allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...digests import seed_of

WIDEST = 4
"""Pictures longer than 4:1 are cropped to it."""


def step_for(resolution: int) -> int:
    """Pixels between the sides of two buckets: 64, as the checkpoints saw; 8 for small ones."""
    return 64 if resolution >= 256 else 8


def buckets(resolution: int) -> list[tuple[int, int]]:
    """(width, height) of every bucket: whole steps, of an area of at most `resolution` squared.

    For every width the tallest that fits, and the same turned. Raises ValueError below one step.
    """
    step = step_for(resolution)
    if resolution < step:
        raise ValueError(f"resolution should be {step} or more, found {resolution}.")
    area = resolution**2
    shapes = set()
    for width in range(step, resolution * 2 + 1, step):
        height = area // width // step * step
        if height >= step and max(width, height) <= WIDEST * min(width, height):
            shapes |= {(width, height), (height, width)}
    return sorted(shapes)


def assign(size: tuple[int, int], shapes: list[tuple[int, int]]) -> tuple[int, int]:
    """The bucket of the nearest aspect ratio for a picture of (width, height); of equals the largest."""
    ratio = math.log(size[0] / size[1])
    return min(shapes, key=lambda s: (round(abs(math.log(s[0] / s[1]) - ratio), 6), -s[0] * s[1], s))


@dataclass(frozen=True)
class Augmentation:
    """random_crop: crops up to a fifth closer, at any place; colour: strength 0..1 of brightness, contrast,
    saturation and hue; variants: pictures made of each, the first of which is the plain one."""

    random_crop: bool = False
    flip: bool = False
    colour: float = 0.0
    variants: int = 4

    @property
    def count(self) -> int:
        """Pictures made of each source."""
        return self.variants if self.random_crop or self.flip or self.colour else 1


def fit(picture: Tensor, shape: tuple[int, int]) -> Tensor:
    """A picture [3, H, W], scaled without distortion and cropped at its centre to (width, height)."""
    return _cropped(picture, shape, 1.0, 0.5, 0.5)


def augmented(picture: Tensor, shape: tuple[int, int], how: Augmentation, key: str, variant: int) -> Tensor:
    """Variant 0 is `fit`; each other one is drawn from the picture's key and its number alone."""
    if variant == 0:
        return fit(picture, shape)
    from kornia import enhance
    from kornia.geometry.transform import hflip

    seed = seed_of(f"{key}:{variant}")
    draw = torch.rand(8, generator=torch.Generator().manual_seed(seed)).tolist()
    zoom, x, y = (1 + 0.2 * draw[0], draw[1], draw[2]) if how.random_crop else (1.0, 0.5, 0.5)
    result = _cropped(picture, shape, zoom, x, y)
    if how.flip and draw[3] < 0.5:
        result = hflip(result)
    if how.colour:
        brightness, contrast, saturation, hue = (how.colour * (2 * value - 1) for value in draw[4:])
        result = enhance.adjust_brightness(result, 0.2 * brightness)
        result = enhance.adjust_contrast(result, 1 + 0.2 * contrast)
        result = enhance.adjust_saturation(result, 1 + 0.3 * saturation)
        result = enhance.adjust_hue(result, 0.1 * hue)
    return result.clamp(0, 1)


def _cropped(picture: Tensor, shape: tuple[int, int], zoom: float, x: float, y: float) -> Tensor:
    """Scaled to cover (width, height) `zoom` times, then cropped at x, y in 0..1 of what is left over."""
    from kornia.geometry.transform import resize

    width, height = shape
    reduction = int(min(picture.shape[2] / width, picture.shape[1] / height) / zoom / 2)
    if reduction > 1:  # the smooth resize of a whole camera picture takes seconds
        picture = F.avg_pool2d(picture, reduction)
    scale = zoom * max(width / picture.shape[2], height / picture.shape[1])
    covering = max(height, round(picture.shape[1] * scale)), max(width, round(picture.shape[2] * scale))
    if covering != tuple(picture.shape[1:]):
        picture = resize(picture[None], covering, interpolation="bicubic", antialias=scale < 1)[0].clamp(0, 1)
    top, left = round(y * (covering[0] - height)), round(x * (covering[1] - width))
    return picture[:, top : top + height, left : left + width]
