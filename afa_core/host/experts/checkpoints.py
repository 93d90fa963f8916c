"""Which checkpoint a network came from: seen by its weights, so that a renamed file is still found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Any

import comfy.model_detection
import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..architectures.families import FAMILIES
from .sketch import PRECISIONS, Sketch

FOLDERS = ("checkpoints", "diffusion_models")
SAMPLES = 16
"""Values read of each tensor, from its middle. A fine-tune changes nearly every weight, so few identify it, and
being neighbours they cost one read of the disk: a file of 7 GB is identified by reading a few MB."""


@dataclass(frozen=True)
class Identity:
    """What a network is recognised by.

    digests: SHA-256 of some weights of every tensor as float16: of the weights as they are, then of the same rounded
             to each of PRECISIONS, as a host does that loads them so
    """

    sketch: Sketch
    digests: tuple[str, ...]

    @classmethod
    def of(cls, keys: Iterable[str], tensor: Callable[[str], Tensor]) -> Identity:
        picked = _picked(keys, tensor)
        digests = [_digest(picked)]
        for dtype in PRECISIONS.values():
            digests.append(_digest({key: values.to(dtype) for key, values in picked.items()}))
        sketch = Sketch.of(values[len(values) // 2] for values in picked.values() if len(values))
        return cls(sketch, tuple(digests))

    def is_of(self, expert: Mapping[str, Any]) -> bool:
        """Whether these are the weights of an expert that an aggregator's file names; older files have a digest only."""
        if "sketch" in expert:
            sketch = Sketch.parsed(expert["sketch"])
            return sketch is not None and sketch.agrees(self.sketch)
        return expert.get("sha256", "") in self.digests


def weights_digest(keys: Iterable[str], tensor: Callable[[str], Tensor]) -> str:
    """SHA-256 over some weights of every tensor, as float16, in the order of their names."""
    return _digest(_picked(keys, tensor))


def model_identity(patcher: ModelPatcher) -> Identity:
    """Of a loaded model's own weights, whatever LoRA is patched in at this moment."""
    keys = (key for key, _ in patcher.model.diffusion_model.named_parameters())
    return Identity.of(keys, lambda key: own_weight(patcher, f"diffusion_model.{key}"))


def own_weight(patcher: ModelPatcher, key: str) -> Tensor:
    """A weight of a model without the patches that are in it at this moment."""
    backup = patcher.backup.get(key)
    return comfy.utils.get_attr(patcher.model, key) if backup is None else backup.weight


def file_identity(path: Path) -> Identity | None:
    """Of the network in a checkpoint or in a file of its own; None for a file that cannot be read."""
    try:
        stat = path.stat()
        return _file_identity(path, stat.st_mtime_ns, stat.st_size)
    except (SafetensorError, OSError, LookupError):  # the last where it looks like diffusers' layout, and is another
        return None


@lru_cache(maxsize=4096)
def _file_identity(path: Path, modified: int, size: int) -> Identity:
    with safe_open(path, "pt") as file:
        names = _names(file)
        return Identity.of(names, lambda key: file.get_tensor(names[key]))


def _names(file: Any) -> dict[str, str]:
    """Of each tensor of the network, by the host's key, the name in a file; as the host's loaders read it."""
    keys = list(file.keys())
    prefix = comfy.model_detection.unet_prefix_from_state_dict(dict.fromkeys(keys))
    inside = {key.removeprefix(prefix): key for key in keys if key.startswith(prefix)}
    if inside:
        return inside
    shapes = {key: torch.empty(file.get_slice(key).get_shape(), device="meta") for key in keys}
    names = next(filter(None, (family.diffusers_names(shapes) for family in FAMILIES)), None)
    return {names[key]: key for key in keys if key in names} if names else {key: key for key in keys}


def find_checkpoint(expert: Mapping[str, Any]) -> tuple[str, Path] | None:
    """The user's file with an expert's weights, and which of FOLDERS it lies in; those of its name are read first."""
    name = PureWindowsPath(expert.get("file", "")).name  # it splits at both kinds of slashes
    known = [(folder, file) for folder in FOLDERS for file in folder_paths.get_filename_list(folder)]
    for folder, file in sorted(known, key=lambda place: Path(place[1]).name != name):
        comfy.model_management.throw_exception_if_processing_interrupted()
        path = folder_paths.get_full_path(folder, file)  # None for a link to nowhere
        if path and path.endswith((".safetensors", ".sft")):
            found = file_identity(Path(path))
            if found is not None and found.is_of(expert):
                return folder, Path(path)
    return None


def _picked(keys: Iterable[str], tensor: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Some values of every tensor, in its own precision, in the order of their names."""
    picked = {}
    for key in sorted(keys):
        values = tensor(key).detach().flatten()
        start = max(0, len(values) - SAMPLES) // 2
        picked[key] = values[start : start + SAMPLES].to("cpu")
    return picked


def _digest(picked: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, values in picked.items():
        digest.update(key.encode())
        digest.update(values.float().half().numpy().tobytes())
    return digest.hexdigest()
