"""Diagrams, for what pictures of small networks cannot show: probe, trainings, merges, families."""

import math

from PIL import Image

from .look import ANIMALS, EXPERTS, FRAME, INK, PALE, PEOPLE, QUIET, THINGS, Point, Sheet

WHITE = "#FFFFFF"


def _titled(title: str) -> Sheet:
    sheet = Sheet()
    sheet.title(title)
    return sheet


def _network(sheet: Sheet, left: float, top: float, scale: float = 1.0) -> None:
    """A small network: three inputs in the experts' colours, a hidden layer, one output."""
    inner = [(left + 80 * scale, top + y * scale) for y in (20, 60, 100, 140)]
    ends = [(left, top + y * scale) for y in (30, 80, 130)]
    last = (left + 160 * scale, top + 80 * scale)
    for start in inner:
        for end in (*ends, last):
            sheet.path([start, end], FRAME, 3)
    for point, colour in zip(ends, EXPERTS, strict=True):
        sheet.disc(point, 19 * scale, colour)
    for point in inner:
        sheet.disc(point, 12 * scale, WHITE, QUIET)
    sheet.disc(last, 19 * scale, INK)


def _falling(sheet: Sheet, left: float, top: float, width: float, height: float) -> None:
    """A loss that falls below what needs no training."""
    sheet.box((left, top, width, height), PALE, None)
    level = top + height * 0.36
    sheet.dashes((left + 18, level), (left + width - 18, level))
    sheet.words((left + width - 20, level - 20), "without training", 21, QUIET, anchor="rm")
    curve = [(i / 60, math.exp(-3.4 * i / 60)) for i in range(61)]
    line: list[Point] = [(left + 20 + x * (width - 40), top + height - 24 - y * (height - 44)) for x, y in curve]
    sheet.path(line, PEOPLE, 8)
    sheet.disc(line[-1], 11, PEOPLE)


def probe_experts() -> Image.Image:
    """How well each checkpoint knows each kind of picture, and the verdict."""
    sheet = _titled("Worth an ensemble?")
    known = ((30, 13, 10), (11, 29, 15), (14, 11, 31))
    for column, colour in enumerate(EXPERTS):
        sheet.box((146 + column * 108, 84, 96, 264), PALE, None)
        for row in range(3):
            sheet.disc((194 + column * 108, 132 + row * 84), known[row][column], colour)
    for row, name in enumerate(("people", "animals", "things")):
        sheet.words((132, 132 + row * 84), name, 25, QUIET, anchor="rm")
    for column in range(3):
        sheet.words((194 + column * 108, 372), str(column + 1), 25, QUIET)
    sheet.box((112, 406, 288, 70), THINGS, None, radius=35)
    sheet.path([(148, 441), (160, 454), (182, 428)], WHITE, 7)
    sheet.words((282, 441), "worth it", 34, WHITE, bold=True)
    return sheet.finished()


def train_aggregator() -> Image.Image:
    """The small network that is trained, and its loss."""
    sheet = _titled("Train the aggregator")
    _network(sheet, 162, 78, 1.15)
    _falling(sheet, 28, 286, 456, 198)
    return sheet.finished()


def train_from_prompts() -> Image.Image:
    """A list of prompts in place of pictures."""
    sheet = _titled("Train from prompts alone")
    sheet.box((30, 88, 194, 172), WHITE, FRAME, 3)
    for i, (width, colour) in enumerate(((118, PEOPLE), (142, ANIMALS), (96, THINGS), (130, PEOPLE))):
        sheet.path([(56, 120 + i * 36), (56 + width, 120 + i * 36)], colour, 11)
    sheet.arrow((238, 174), (272, 174))
    _network(sheet, 308, 94)
    _falling(sheet, 28, 286, 456, 198)
    return sheet.finished()


def distil_to_lora() -> Image.Image:
    """Three teachers, and the one LoRA that learns what they predict together."""
    sheet = _titled("Three teach one LoRA")
    for x, colour in zip((106, 256, 406), EXPERTS, strict=True):
        sheet.strand((x, 150), (256 + (x - 256) * 0.16, 330), colour, 9)
        sheet.box((x - 58, 88, 116, 84), colour, None, radius=16)
        for y in (112, 130, 148):
            sheet.path([(x - 34, y), (x + 34, y)], WHITE, 6)
    sheet.box((96, 330, 320, 96), INK, None, radius=24)
    sheet.words((256, 378), "LoRA", 48, WHITE, bold=True)
    sheet.words((256, 460), "as fast as one model", 28, QUIET)
    return sheet.finished()


def auto_block_merge() -> Image.Image:
    """A network whose blocks are mixed of three checkpoints, each in a proportion of its own."""
    sheet = _titled("A merge, block by block")
    shares = ((0.62, 0.22), (0.42, 0.2), (0.2, 0.5), (0.12, 0.3), (0.1, 0.74), (0.3, 0.3), (0.24, 0.16), (0.5, 0.1), (0.7, 0.14))
    for block, (first, second) in enumerate(shares):
        half = 92 + 26 * abs(block - 4)
        top, left, right = 88 + block * 38, 256 - half, 256 + half
        ends = (left, left + 2 * half * first, left + 2 * half * (first + second), right)
        for start, end, colour in zip(ends[:-1], ends[1:], EXPERTS, strict=True):
            sheet.box((start, top, end - start - 3, 28), colour, None, radius=7)
    sheet.words((256, 462), "runs at full speed", 28, QUIET)
    return sheet.finished()


def control_and_high_res() -> Image.Image:
    """Lines that guide, a first pass, and a second one at a larger size."""
    sheet = _titled("ControlNet, then high-res")
    sheet.box((56, 84, 170, 130), WHITE, FRAME, 3)
    _lighthouse(sheet, 141, 200, 1, None)
    sheet.arrow((240, 149), (274, 149))
    sheet.box((288, 84, 170, 130), PALE, INK, 3)
    _lighthouse(sheet, 373, 200, 1, PEOPLE)
    sheet.arrow((373, 226), (373, 248), PEOPLE)
    sheet.box((56, 260, 402, 226), PALE, INK, 3)
    _lighthouse(sheet, 257, 466, 1.85, PEOPLE)
    return sheet.finished()


def _lighthouse(sheet: Sheet, x: float, ground: float, scale: float, colour: str | None) -> None:
    """In outline, or filled in the experts' colours."""
    thickness = 4 if colour is None else 6 * scale
    sheet.path([(x - 62 * scale, ground), (x + 62 * scale, ground)], THINGS if colour else QUIET, thickness)
    sides = [(x - 20 * scale, ground), (x - 13 * scale, ground - 68 * scale), (x + 13 * scale, ground - 68 * scale)]
    sheet.path([*sides, (x + 20 * scale, ground)], colour or QUIET, thickness)
    sheet.path([(x - 20 * scale, ground - 68 * scale), (x + 20 * scale, ground - 68 * scale)], colour or QUIET, thickness)
    for band in (18, 40):
        sheet.path([(x - 14 * scale, ground - band * scale), (x + 14 * scale, ground - band * scale)], colour or QUIET, thickness)
    sheet.disc((x, ground - 86 * scale), 10 * scale, ANIMALS if colour else WHITE, None if colour else QUIET)
    for side in (-1, 1):
        rays = [(x + side * 24 * scale, ground - 86 * scale), (x + side * 58 * scale, ground - 86 * scale)]
        sheet.path(rays, ANIMALS if colour else QUIET, thickness)


def z_image_with_loras() -> Image.Image:
    return _transformer("Z-Image, three LoRAs", "the memory of one", 3)


def flux_ensemble() -> Image.Image:
    return _transformer("Two Flux models", "one picture", 2)


def anima_ensemble() -> Image.Image:
    return _transformer("Three Anima models", "one picture", 3)


def _transformer(title: str, words: str, experts: int) -> Image.Image:
    """Experts that meet at some of a transformer's blocks."""
    sheet, places = _titled(title), [256 + 130 * (i - (experts - 1) / 2) for i in range(experts)]
    for x, colour in zip(places, EXPERTS, strict=False):
        sheet.path([(x, 92), (x, 334)], colour, 9)
        sheet.strand((x, 334), (256, 416), colour, 9)
    for block in range(4):
        sheet.box((places[0] - 54, 108 + block * 58, places[-1] - places[0] + 108, 38), WHITE, QUIET, 3)
        for x, colour in zip(places, EXPERTS, strict=False):
            sheet.disc((x, 127 + block * 58), 12, colour)
    sheet.disc((256, 416), 24, INK)
    sheet.words((256, 472), words, 28, QUIET)
    return sheet.finished()
