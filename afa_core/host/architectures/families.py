"""The families that the pack can ensemble, and which of them a model is of."""

from __future__ import annotations

from comfy.model_base import BaseModel

from .architecture import Architecture
from .cosmos import Cosmos
from .flux import Chroma, Flux
from .krea2 import Krea2
from .lumina import Lumina
from .qwen_image import QwenImage
from .unet import UNet

FAMILIES: tuple[Architecture, ...] = (UNet(), Flux(), Chroma(), Cosmos(), Lumina(), QwenImage(), Krea2())


def architecture_of(model: BaseModel) -> Architecture | None:
    """The family of a model; None where no family can run it block by block."""
    return next((family for family in FAMILIES if family.matches(model)), None)


def supported() -> str:
    """The families in words, for an error."""
    return ", ".join(family.title for family in FAMILIES)
