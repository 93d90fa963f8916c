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
"""Values read of each tensor. A fine-tune changes nearly every tensor, so few tell it apart; a file of
7 GB is identified without being read whole."""


def weights_digest(keys: Iterable[str], tensor: Callable[[str], Tensor]) -> str:
    """SHA-256 over evenly spaced weights of a U-Net, as float16, in the order of their names."""
    digest = hashlib.sha256()
    for key in sorted(keys):
        values = tensor(key).detach().flatten()
        places = torch.arange(SAMPLES, device=values.device) * (len(values) - 1) // (SAMPLES - 1)
        picked = values[places]  # whole numbers: float32 does not count to the last weight of SDXL's widest block
        digest.update(key.encode())
        digest.update(picked.to("cpu", torch.float32).half().numpy().tobytes())
    return digest.hexdigest()


def model_digest(patcher: ModelPatcher) -> str:
    """The digest of a loaded model's own weights, whatever LoRA is patched in at this moment."""

    def tensor(key: str) -> Tensor:
        key = f"diffusion_model.{key}"
        backup = patcher.backup.get(key)
        return comfy.utils.get_attr(patcher.model, key) if backup is None else backup.weight

    return weights_digest((key for key, _ in patcher.model.diffusion_model.named_parameters()), tensor)


def file_digest(path: Path) -> str | None:
    """The digest of a checkpoint file's U-Net; None for a file that is no such checkpoint."""
    stat = path.stat()
    return _file_digest(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4096)
def _file_digest(path: Path, modified: int, size: int) -> str | None:
    try:
        with safe_open(path, "pt") as file:
            keys = [key[len(PREFIX) :] for key in file.keys() if key.startswith(PREFIX)]
            return weights_digest(keys, lambda key: file.get_tensor(PREFIX + key)) if keys else None
    except SafetensorError:
        return None


def find_checkpoint(name: str, digest: str) -> Path | None:
    """The user's checkpoint with these weights; the one of this name is looked at first."""
    known = folder_paths.get_filename_list("checkpoints")
    known = sorted(known, key=lambda file: Path(file).name != Path(name).name)
    for file in known:
        path = Path(folder_paths.get_full_path_or_raise("checkpoints", file))
        if path.suffix == ".safetensors" and file_digest(path) == digest:
            return path
    return None
