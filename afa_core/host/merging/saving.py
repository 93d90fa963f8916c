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

    older = Path(folder_paths.models_dir, "unet")  # which the host lists first
    folders = sorted(folder_paths.get_folder_paths("diffusion_models"), key=lambda folder: Path(folder) == older)
    path = Path(folders[0], f"{name}.safetensors")
    with replacing(path) as draft, TemporaryDirectory(dir=path.parent) as folder:
        save_checkpoint(model, filename_prefix=name, output_dir=folder)  # which chooses the file's name itself
        (written,) = Path(folder).iterdir()
        os.replace(written, draft)
    return path
