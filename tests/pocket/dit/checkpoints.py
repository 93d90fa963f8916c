"""The DiT's networks as full checkpoints, with the scenes' text encoder and the autoencoder."""

from pathlib import Path

from safetensors.torch import load_file

from .. import assemble, common, packing
from ..scenes import models
from . import network

NAMES = ("dit_base", *(f"dit_{domain}" for domain in common.DOMAINS))


def ensure(folder: Path, names: tuple[str, ...] = NAMES) -> dict[str, Path]:
    """{name: path} of these checkpoints in `folder`, written where they are absent or stale."""
    base, *shared = (
        network.WEIGHTS / "base.safetensors", models.WEIGHTS / "text_encoder.safetensors", common.WEIGHTS / "vae.safetensors",
    )  # fmt: skip
    text, vae = assemble.text_state(shared[0]), load_file(shared[1])
    out = {}
    for name in names:
        part = network.WEIGHTS / f"{name.removeprefix('dit_')}.safetensors"
        weights = load_file(base) if part == base else packing.unpack(load_file(part), load_file(base))
        out[name] = folder / f"{name}.safetensors"
        stamp = assemble.digest([base, *shared, part])
        assemble.write(out[name], stamp, lambda w=weights: assemble.checkpoint(w, text, vae))
    return out
