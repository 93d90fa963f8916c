"""The experts of an aggregator's file, loaded from the user's folders: checkpoints, with the LoRAs that they had."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE

from ...aggregator.file import AggregatorError, AggregatorFile
from .checkpoints import find_checkpoint
from .fingerprint import patches_digest
from .identity import named


@dataclass
class LoadedExpert:
    """One expert. clip, vae: None where its file holds none."""

    file: str
    patcher: ModelPatcher
    clip: CLIP | None
    vae: VAE | None


def load_experts(aggregator: AggregatorFile) -> list[LoadedExpert]:
    """All experts that an aggregator was trained for.

    Raises AggregatorError, before any weight is loaded, where the file names none, or a checkpoint or LoRA of one is
    not there; and where its LoRAs turn out to be others than it was trained with.
    """
    if not aggregator.experts:
        raise AggregatorError(
            f"{aggregator.name} does not say which checkpoints it was trained for: load them yourself and connect "
            "them to AFA Ensemble Model."
        )
    parts = []
    for number, expert in enumerate(aggregator.experts, start=1):
        place = find_checkpoint(expert)
        if place is None:
            raise AggregatorError(
                f"{aggregator.name} was trained with {expert.get('file', 'a checkpoint')} as expert {number}, and none "
                "of your .safetensors files in models/checkpoints and models/diffusion_models has its weights: put that file there."
            )
        parts.append((expert, *place, _lora_paths(aggregator.name, number, expert)))
    folders = {path: folder for _, folder, path, _ in parts}
    bases = {path: _base(folder, path) for path, folder in folders.items()}  # LoRAs on one of them share its weights
    return [_loaded(aggregator.name, expert, bases[path], loras) for expert, _, path, loras in parts]


def _lora_paths(name: str, number: int, expert: dict[str, Any]) -> list[Path]:
    loras = expert.get("loras", [])
    if expert.get("patches") and not loras:
        raise AggregatorError(
            f"{name} was trained with {named(expert)} as expert {number}, which it cannot put on by itself: load and patch "
            "the checkpoints as for its training, and connect them to AFA Ensemble Model."
        )
    paths = []
    for lora in loras:
        wanted = PureWindowsPath(lora["file"])  # it splits at both kinds of slashes
        known = sorted(folder_paths.get_filename_list("loras"), key=lambda file, wanted=wanted: PureWindowsPath(file) != wanted)
        path = next((folder_paths.get_full_path("loras", file) for file in known if Path(file).name == wanted.name), None)
        if path is None:
            raise AggregatorError(
                f"{name} was trained with {named(expert)} as expert {number}, and there is no {wanted} among your LoRAs: "
                "put that file into models/loras."
            )
        paths.append(Path(path))
    return paths


def _base(folder: str, path: Path) -> LoadedExpert:
    """A checkpoint, or a network in a file of its own, without LoRAs."""
    if folder == "checkpoints":
        embeddings = folder_paths.get_folder_paths("embeddings")
        return LoadedExpert(
            path.name, *comfy.sd.load_checkpoint_guess_config(str(path), embedding_directory=embeddings)[:3]
        )
    return LoadedExpert(path.name, comfy.sd.load_diffusion_model(str(path)), None, None)


def _loaded(name: str, expert: dict[str, Any], base: LoadedExpert, loras: list[Path]) -> LoadedExpert:
    model, clip = base.patcher, base.clip
    for lora, file in zip(expert.get("loras", []), loras, strict=True):
        state = comfy.utils.load_torch_file(str(file), safe_load=True)
        model, clip = comfy.sd.load_lora_for_models(model, clip, state, lora["strength"], lora["strength_clip"])
    if expert.get("patches", patches_digest(model)) != patches_digest(model):
        raise AggregatorError(
            f"{name} was trained with {named(expert)}, and your files of these names hold other LoRAs, or a loader in "
            "bypass mode put them on: load and patch the checkpoints as for its training, and connect them to AFA Ensemble Model."
        )
    return replace(base, patcher=model, clip=clip)
