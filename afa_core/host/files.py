"""Where aggregators and checkpoints lie among the user's model folders."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import folder_paths

FOLDER = "afa"


def register_folder(name: str = FOLDER, endings: Collection[str] = (".safetensors",)) -> None:
    """Makes a folder of models/ known to the host, beside what the user's extra_model_paths.yaml says."""
    folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name), is_default=True)
    paths, _ = folder_paths.folder_names_and_paths[name]
    folder_paths.folder_names_and_paths[name] = (paths, set(endings))


def aggregator_folder() -> Path:
    """Where new aggregators are saved: in the first of their folders that can be written to."""
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    return next((f for f in folders if os.access(f if f.exists() else f.parent, os.W_OK)), folders[0])


def aggregator_names() -> list[str]:
    """Aggregator files, and folders in the authors' layout, relative to the model folders."""
    folders = [
        str(config.parent.relative_to(root))
        for root in map(Path, folder_paths.get_folder_paths(FOLDER))
        for config in sorted(root.glob("*/model_config.json"))
    ]
    inside = tuple(name + os.sep for name in folders)
    files = [name for name in folder_paths.get_filename_list(FOLDER) if not name.startswith(inside)]
    return sorted(set(files + folders))


def aggregator_path(name: str) -> Path:
    """Raises FileNotFoundError where no model folder holds it."""
    if name in aggregator_names():
        for root in folder_paths.get_folder_paths(FOLDER):
            if os.path.exists(os.path.join(root, name)):
                return Path(root, name)
    raise FileNotFoundError(f"{name} is not in models/{FOLDER}: put the aggregator there and refresh the node's list.")


def stamp(path: Path) -> str:
    """Changes whenever a file, or any file of a folder, is written again."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    return f"{path}:{[(s.st_mtime_ns, s.st_size) for s in stats]}"
