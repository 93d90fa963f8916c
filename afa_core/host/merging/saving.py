"""A merge as a file, written by the host's own saver."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import folder_paths
from comfy.model_patcher import ModelPatcher

from ...atomic_file import replacing


def save_network(model: ModelPatcher, name: str) -> Path:
    """Saves a model's network, without text encoder and VAE, in models/diffusion_models.

    Raises SavingError where it cannot be written.
    """
    from comfy_extras.nodes_model_merging import save_checkpoint

    folders = sorted(folder_paths.get_folder_paths("diffusion_models"), key=lambda f: Path(f).name != "diffusion_models")
    path = Path(folders[0], f"{name}.safetensors")  # the host lists its older models/unet first
    with replacing(path) as draft, TemporaryDirectory(dir=path.parent) as folder:
        save_checkpoint(model, filename_prefix=name, output_dir=folder)  # which chooses the file's name itself
        (written,) = Path(folder).iterdir()
        os.replace(written, draft)
    return path
