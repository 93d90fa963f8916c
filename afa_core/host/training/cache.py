"""Encoded pictures and prompts on disk, so that a second run starts at once.

One safetensors file an entry, in a folder of the user directory that the web server does not show.
Deleting it costs time only.
"""

from __future__ import annotations

from pathlib import Path

import folder_paths
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ...atomic_file import write_safetensors
from ...digests import json_digest

VERSION = 1


def cache_folder() -> Path:
    return Path(folder_paths.get_system_user_directory("afa"), "cache")


def cache_key(*parts: object) -> str:
    """The name of an entry that depends on `parts`, which are whatever JSON can hold."""
    return json_digest([VERSION, *parts])


class Cache:
    """Tensors by name of entry."""

    def __init__(self) -> None:
        self.folder = cache_folder()

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """No half entry is ever read. Raises SavingError where the disk is full."""
        # Whole, but not at once on the disk: what a power cut takes is made again.
        write_safetensors(tensors, {}, self.path(key), durable=False)

    def get(self, key: str) -> dict[str, Tensor]:
        """Normal tensors on the CPU, whatever mode it is called in. Raises FileNotFoundError."""
        with torch.inference_mode(False):
            return load_file(self._existing(key))

    def shape(self, key: str, name: str) -> tuple[int, ...]:
        """A tensor's shape, from the file's header alone. Raises FileNotFoundError."""
        with safe_open(self._existing(key), "pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def sound(self, key: str) -> bool:
        """Whether the entry can be read; a damaged one is removed, so that it is made again."""
        if key not in self:
            return False
        try:
            with safe_open(self.path(key), "pt"):
                return True
        except SafetensorError:
            self.path(key).unlink(missing_ok=True)
            return False

    def _existing(self, key: str) -> Path:
        if key not in self:
            raise FileNotFoundError(f"{self.path(key)} was deleted while it was in use: start the node again.")
        return self.path(key)
