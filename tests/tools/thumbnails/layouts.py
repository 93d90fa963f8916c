"""Layouts for pictures that were painted: experts whose strands meet in one picture, a map, a grid."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image

from afa_core.routing.panels import clearest, leads

from .look import ANIMALS, EXPERTS, FRAME, INK, PEOPLE, QUIET, THINGS, Box, Sheet

MARGIN, GAP = 28, 14
LARGE: Box = (MARGIN, 256, 456, 228)
"""The picture that a thumbnail is about."""
Tile = tuple[Image.Image, str, str]
"""A picture, its words, and the colour of its expert."""


def named(pictures: Sequence[Image.Image], names: Sequence[str]) -> list[Tile]:
    return list(zip(pictures, names, EXPERTS, strict=False))


def gathered(title: str, experts: Sequence[Tile], together: Image.Image) -> Image.Image:
    """Each expert's picture, and below, where their strands meet, the picture of all."""
    sheet = Sheet()
    sheet.title(title)
    width = (456 - GAP * (len(experts) - 1)) / max(len(experts), 3)
    first = (512 - width * len(experts) - GAP * (len(experts) - 1)) / 2
    for i, (picture, words, colour) in enumerate(experts):
        left = first + i * (width + GAP)
        sheet.strand((left + width / 2, 198), (256 + (i - (len(experts) - 1) / 2) * 16, 256), colour, 7)
        sheet.picture((left, 86, width, width / 2), picture, colour, 4)
        sheet.words((left + width / 2, 86 + width / 2 + 18), words, 21, QUIET)
    sheet.picture(LARGE, together, INK, 3)
    return sheet.finished()


def over_map(title: str, picture: Image.Image, shares: torch.Tensor) -> Image.Image:
    """A picture, and below it the places where each expert is followed."""
    sheet = Sheet()
    sheet.title(title)
    sheet.picture((76, 78, 360, 180), picture, INK, 3)
    sheet.picture((76, 270, 360, 180), tinted(picture, shares), INK, 3)
    legend(sheet, 480)
    return sheet.finished()


def legend(sheet: Sheet, y: float) -> None:
    """Which colour is which of the three experts, in a row across the sheet."""
    for x, name, colour in ((96, "people", PEOPLE), (228, "animals", ANIMALS), (368, "things", THINGS)):
        sheet.disc((x, y), 10, colour)
        sheet.words((x + 18, y), name, 24, QUIET, anchor="lm")


def tinted(picture: Image.Image, shares: torch.Tensor) -> Image.Image:
    """The picture in light grey under the colours of the experts that lead there by their shares [N, h, w]."""
    size = (picture.height * 4, picture.width * 4)
    strengths = F.interpolate(leads(shares, clearest(shares))[None], size, mode="bilinear")[0].clamp(0, 1)
    grey = torch.frombuffer(bytearray(picture.convert("L").resize(size[::-1]).tobytes()), dtype=torch.uint8).view(size)
    ground = (0.55 + 0.45 * grey / 255).expand(3, -1, -1)
    colours = torch.tensor([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in EXPERTS])
    weights = strengths * 0.9
    coloured = torch.einsum("nhw,nc->chw", weights, colours[: len(weights)]) * ground
    mixed = (coloured + (1 - weights.sum(0)).clamp(0) * ground).clamp(0, 1)
    return Image.fromarray((rearrange(mixed, "c h w -> h w c") * 255).byte().numpy())


def compared(title: str, rows: Sequence[Sequence[tuple[Image.Image, str, str | None]]]) -> Image.Image:
    """Pictures with words below, in two columns; those of an expert, or of AFA, have a frame in a colour."""
    sheet = Sheet()
    sheet.title(title)
    for row, tiles in enumerate(rows):
        for column, (picture, words, colour) in enumerate(tiles):
            left, top = 44 + column * 220, 76 + row * 142
            sheet.picture((left, top, 204, 102), picture, colour or FRAME, 4 if colour else 2)
            sheet.words((left + 102, top + 119), words, 22, INK if colour else QUIET)
    return sheet.finished()


def from_file(title: str, picture: Image.Image) -> Image.Image:
    """A file with a stripe an expert, and the picture it leads to."""
    sheet = Sheet()
    sheet.title(title)
    sheet.box((191, 82, 130, 116), "white", INK, 4)
    for i, colour in enumerate(EXPERTS):
        sheet.path([(215, 112 + i * 28), (297, 112 + i * 28)], colour, 12)
    sheet.arrow((256, 206), (256, 244), QUIET)
    sheet.picture(LARGE, picture, INK, 3)
    return sheet.finished()
