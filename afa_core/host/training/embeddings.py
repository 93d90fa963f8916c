"""Textual inversions that captions name: files that the text encoders read, so what is computed from a caption depends on them."""

from __future__ import annotations

import re
from pathlib import Path

import folder_paths

NAMED = re.compile(r"embedding:([^\s,:()]+)")
ENDINGS = ("", ".safetensors", ".pt", ".bin")
"""Which the host tries, in this order."""


def embeddings_in(caption: str) -> list[list[str | int]]:
    """[name, time in ns, size in bytes] of each that a caption names, for the name of what is kept of it; without a file [name]."""
    return [[name, *_stamp(name)] for name in dict.fromkeys(NAMED.findall(caption))]


def _stamp(name: str) -> list[int]:
    found = (folder_paths.get_full_path("embeddings", name + ending) for ending in ENDINGS)
    path = next(filter(None, found), None)
    return [Path(path).stat().st_mtime_ns, Path(path).stat().st_size] if path else []
