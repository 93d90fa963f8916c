"""The scenes' networks as the full checkpoints that CheckpointLoaderSimple reads."""

from pathlib import Path

from safetensors.torch import load_file

from .. import assemble, common, packing
from . import models

BASE = "scenes_base"


def expert_names(kind: str) -> list[str]:
    return [f"scenes_{kind}_{domain}" for domain in common.DOMAINS]


def ensure(folder: Path, names: list[str]) -> dict[str, Path]:
    """{name: path} of these checkpoints in `folder`, written where they are absent or stale."""
    text = assemble.text_state(models.WEIGHTS / "text_encoder.safetensors")
    vae, base = (load_file(path) for path in (common.WEIGHTS / "vae.safetensors", models.WEIGHTS / "base.safetensors"))
    parts = [models.WEIGHTS / f"{name.removeprefix('scenes_')}.safetensors" for name in names]
    shared = [
        models.WEIGHTS / "base.safetensors",
        models.WEIGHTS / "text_encoder.safetensors",
        common.WEIGHTS / "vae.safetensors",
    ]
    out = {}
    for name, part in zip(names, parts, strict=True):
        weights = base if name == BASE else packing.unpack(load_file(part), base)
        out[name] = folder / f"{name}.safetensors"
        assemble.write(out[name], assemble.digest([*shared, part]), lambda w=weights: assemble.checkpoint(w, text, vae))
    return out
