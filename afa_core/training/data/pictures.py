"""Pictures from files: every colour mode as RGB on white, and none too large to be safe."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
OTHER_PICTURES = {".avif", ".gif", ".heic", ".heif", ".jxl", ".tif", ".tiff"}
"""Of kinds that are not read."""
MOST_PIXELS = 80_000_000
LEAST_SIDE = 8


class PictureError(ValueError):
    """Why a picture cannot be used, as the end of a sentence that begins with its name."""


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height as the picture is shown, from its header alone.

    Raises PictureError for what is no picture, and before decoding for one of too many pixels.
    """
    with _opened(path) as picture:
        width, height = picture.size
        try:  # PNG's getexif would decode the whole picture to look for a chunk at its end
            exif = picture.getexif() if picture.format != "PNG" or "exif" in picture.info else {}
        except Exception as error:
            raise PictureError("is broken") from error
        turned = exif.get(0x0112) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def read_picture(path: Path) -> Tensor:
    """RGB [3, H, W] in 0..1, upright, transparency on white. Raises PictureError."""
    import numpy
    from PIL import Image, ImageOps

    with _opened(path) as picture:
        try:
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I"):  # 16 bit grey, which convert("RGB") would clip to white
                grey = torch.from_numpy(numpy.asarray(picture, dtype=numpy.float32)) / 65535
                return grey.clamp(0, 1).expand(3, -1, -1).clone()
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                white = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(white, picture)
            values = numpy.array(picture.convert("RGB"))
        except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error ...
            raise PictureError("is broken") from error
    return torch.from_numpy(values).permute(2, 0, 1).float() / 255


def _opened(path: Path):
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path, formats=sorted(set(PICTURES.values())))
    except Image.DecompressionBombError as error:
        raise PictureError(f"has more than {MOST_PIXELS // 10**6} million pixels") from error
    except Exception as error:
        raise PictureError("is broken or no picture") from error
    width, height = picture.size
    if width * height > MOST_PIXELS:
        picture.close()
        raise PictureError(f"has more than {MOST_PIXELS // 10**6} million pixels")
    if min(width, height) < LEAST_SIDE:
        picture.close()
        raise PictureError(f"is smaller than {LEAST_SIDE} pixels")
    return picture
