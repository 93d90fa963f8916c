"""Which checkpoint a network came from: told by its weights, so that a renamed file is still found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError, safe_open
from torch import Tensor

PREFIX = "model.diffusion_model."
SAMPLES = 16
"""Values read of each tensor, from its middle. A fine-tune changes nearly every weight, so few tell it apart, and
being neighbours they cost one read of the disk: a file of 7 GB is identified by reading a few MB."""


def weights_digest(keys: Iterable[str], tensor: Callable[[str], Tensor]) -> str:
    """SHA-256 over some weights of every tensor of a U-Net, as float16, in the order of their names."""
    digest = hashlib.sha256()
    for key in sorted(keys):
        values = tensor(key).detach().flatten()
        start = max(0, len(values) - SAMPLES) // 2
        picked = values[start : start + SAMPLES]
        digest.update(key.encode())
        digest.update(picked.to("cpu", torch.float32).half().numpy().tobytes())
    return digest.hexdigest()


def model_digest(patcher: ModelPatcher) -> str:
    """The digest of a loaded model's own weights, whatever LoRA is patched in at this moment."""

    keys = (key for key, _ in patcher.model.diffusion_model.named_parameters())
    return weights_digest(keys, lambda key: own_weight(patcher, f"diffusion_model.{key}"))


def own_weight(patcher: ModelPatcher, key: str) -> Tensor:
    """A weight of a model without the patches that are in it at this moment."""
    backup = patcher.backup.get(key)
    return comfy.utils.get_attr(patcher.model, key) if backup is None else backup.weight


def file_digest(path: Path) -> str | None:
    """The digest of a checkpoint file's U-Net; None for a file that is no such checkpoint."""
    try:
        stat = path.stat()
        return _file_digest(path, stat.st_mtime_ns, stat.st_size)
    except (SafetensorError, OSError):
        return None


@lru_cache(maxsize=4096)
def _file_digest(path: Path, modified: int, size: int) -> str | None:
    with safe_open(path, "pt") as file:
        keys = [key[len(PREFIX) :] for key in file.keys() if key.startswith(PREFIX)]
        return weights_digest(keys, lambda key: file.get_tensor(PREFIX + key)) if keys else None


def find_checkpoint(name: str, digest: str) -> Path | None:
    """The user's checkpoint with these weights; the ones of this name are looked at first."""
    known = folder_paths.get_filename_list("checkpoints")
    for file in sorted(known, key=lambda file: Path(file).name != Path(name).name):
        path = folder_paths.get_full_path("checkpoints", file)  # None for a link to nowhere
        if path and path.endswith(".safetensors") and file_digest(Path(path)) == digest:
            return Path(path)
    return None
