"""Reading files of unknown origin: bounded in size, and fit to be shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HEADER_LIMIT = 16 * 2**20
"""Bytes of a .safetensors header. An aggregator for SDXL has 0.2 MB; parsing takes some thirty times the memory."""
TEXT_LIMIT = 2**20
"""Bytes of a JSON file in the authors' layout, which has 200."""


def check_header(file: Path) -> None:
    """Raises ValueError for a .safetensors file whose header would take long to parse."""
    with file.open("rb") as start:
        claimed = int.from_bytes(start.read(8), "little")
    # A header longer than its file is refused by the reader, at once.
    if HEADER_LIMIT < claimed < file.stat().st_size:
        raise ValueError(f"its header should have at most {HEADER_LIMIT} bytes, found {claimed}")


def short_text(file: Path, name: str) -> str:
    """A text file's content. Raises ValueError, calling it `name`, where it is too long or no text."""
    size = file.stat().st_size
    if size > TEXT_LIMIT:
        raise ValueError(f"{name} should have at most {TEXT_LIMIT} bytes, found {size}")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not text in UTF-8") from error


def parsed(name: str, text: str) -> Any:
    """JSON. Raises ValueError where it is none, RecursionError where it is nested too deeply."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} is not JSON ({brief(error)})") from error


def printable(text: str, longest: int) -> str:
    """A text of unknown origin as part of a sentence: short, on one line, without what would reorder the line."""
    return "".join(c if c.isprintable() else "?" for c in text[:longest])


def brief(error: BaseException) -> str:
    """The first line of an error's message."""
    return printable((str(error).splitlines() or [type(error).__name__])[0], 200)
