"""The look of all our pictures: white ground, light frames with rounded corners, short words, the experts' colours.

Everything is drawn at four times the size and reduced at the end, so that curves and corners are smooth. Positions are in
the pixels of the finished picture.
"""

from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from afa_core.plots import COLOURS

INK, QUIET, FRAME, PALE = "#1F2933", "#5B6770", "#D9DFE4", "#F4F6F8"
PEOPLE, ANIMALS, THINGS = EXPERTS = COLOURS[:3]
FINE = 4
RADIUS = 10

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""left, top, width, height"""


class Sheet:
    """A white picture to draw on. `finished()` is a thumbnail of 512 x 512 unless another size is given."""

    def __init__(self, width: int = 512, height: int = 512):
        self.width, self.height = width, height
        self._image = Image.new("RGB", (width * FINE, height * FINE), "white")
        self._draw = ImageDraw.Draw(self._image)

    def finished(self) -> Image.Image:
        return self._image.resize((self.width, self.height), Image.Resampling.LANCZOS)

    def words(
        self, at: Point, text: str, size: float = 24, colour: str = INK, *, anchor: str = "mm", bold: bool = False
    ) -> None:
        stroke = round(size * FINE / 36) if bold else 0
        place = (at[0] * FINE, at[1] * FINE)
        self._draw.text(place, text, colour, _font(round(size * FINE)), anchor, stroke_width=stroke, stroke_fill=colour)

    def title(self, text: str) -> None:
        """A few words over a thumbnail, as large as they fit."""
        size = min(36, 36 * 440 * FINE / _font(36 * FINE).getlength(text))
        self.words((self.width / 2, 42), text, size, bold=True)

    def picture(self, box: Box, picture: Image.Image, frame: str = FRAME, thickness: float = 2) -> None:
        """A picture that fills the box, with rounded corners and an even frame."""
        left, top, width, height = (round(side * FINE) for side in box)
        grown = picture.resize((width, height), Image.Resampling.BICUBIC)
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, width - 1, height - 1), RADIUS * FINE, 255)
        self._image.paste(grown, (left, top), mask)
        self.box(box, None, frame, thickness)

    def box(
        self, box: Box, fill: str | None = PALE, frame: str | None = FRAME, thickness: float = 2, radius: float = RADIUS
    ) -> None:
        left, top, width, height = (side * FINE for side in box)
        corners = (left, top, left + width - 1, top + height - 1)
        self._draw.rounded_rectangle(corners, radius * FINE, fill, frame, round(thickness * FINE) if frame else 0)

    def disc(self, at: Point, radius: float, fill: str, frame: str | None = None) -> None:
        x, y = at
        corners = [side * FINE for side in (x - radius, y - radius, x + radius, y + radius)]
        self._draw.ellipse(corners, fill, frame, 3 * FINE if frame else 0)

    def path(self, points: Sequence[Point], colour: str, thickness: float = 5) -> None:
        """A line through points, with round ends and joints."""
        fine = [(x * FINE, y * FINE) for x, y in points]
        self._draw.line(fine, colour, round(thickness * FINE), joint="curve")
        for x, y in (points[0], points[-1]):
            self.disc((x, y), thickness / 2, colour)

    def strand(self, start: Point, end: Point, colour: str, thickness: float = 5) -> None:
        """A smooth line that leaves and arrives upright."""
        (x, y), (to_x, to_y) = start, end
        steps = [i / 32 for i in range(33)]
        ease = [t * t * (3 - 2 * t) for t in steps]
        line = [(x + (to_x - x) * e, y + (to_y - y) * t) for t, e in zip(steps, ease, strict=True)]
        self.path(line, colour, thickness)

    def dashes(self, start: Point, end: Point, colour: str = QUIET, thickness: float = 3) -> None:
        """A level dashed line."""
        x = start[0]
        while x < end[0]:
            self.path([(x, start[1]), (min(x + 12, end[0]), end[1])], colour, thickness)
            x += 22

    def arrow(self, start: Point, end: Point, colour: str = QUIET) -> None:
        """A level or an upright arrow."""
        self.path([start, end], colour)
        (x, y), upright = end, start[0] == end[0]
        wings = [(x - 11, y - 11), end, (x + 11, y - 11)] if upright else [(x - 11, y - 11), end, (x - 11, y + 11)]
        self.path(wings, colour)


@cache
def _font(size: int):
    return ImageFont.load_default(size)
