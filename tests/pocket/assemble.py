"""Writes the full checkpoints that CheckpointLoaderSimple reads: python tests/pocket assemble [FOLDER]

pocket_base, pocket_people, pocket_animals and pocket_things .safetensors, float16, the same bytes every time. Needs
neither the host nor the training set. `ensure(folder)` does the same from a test and skips what is there already.
"""
import functools
import hashlib
import os
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from . import common, packing

TOKENS_IN_ALL = 49408
PARTS = ("base", *(f"expert_{d}" for d in common.DOMAINS), "text_encoder", "vae")
NAMES = ("pocket_base", *(f"pocket_{d}" for d in common.DOMAINS))


def sources():
    return [common.WEIGHTS / f"{p}.safetensors" for p in PARTS]


def digest(parts=None):
    """SHA-256 over committed weights, by default all: written into every checkpoint, so that stale ones are noticed."""
    out = hashlib.sha256()
    for path in parts or sources():
        out.update(path.name.encode())
        out.update(path.read_bytes())
    return out.hexdigest()


def text_state(path=common.WEIGHTS / "text_encoder.safetensors"):
    """The host's CLIP keys from the cut table: words that were never trained share one trained row."""
    cut = load_file(path)
    table = cut["tokens"][-1].repeat(TOKENS_IN_ALL, 1)
    table[cut["vocabulary"]] = cut["tokens"][:-1]
    model = "cond_stage_model.transformer.text_model."
    out = {model + "embeddings.token_embedding.weight": table, model + "embeddings.position_embedding.weight": cut["positions"],
           "cond_stage_model.transformer.text_projection.weight": torch.eye(table.shape[1], dtype=torch.float16)}
    for key, value in cut.items():
        if key.startswith("layers."):
            out[model + "encoder." + key] = value
        elif key.startswith("norm."):
            out[model + "final_layer_norm." + key.removeprefix("norm.")] = value
    return out


def unet_state(name, base):
    if name == "pocket_base":
        return base
    return packing.unpack(load_file(common.WEIGHTS / f"expert_{name.removeprefix('pocket_')}.safetensors"), base)


def checkpoint(weights, text, vae):
    """U-Net, text encoder and autoencoder under the keys of a full checkpoint."""
    out = {f"model.diffusion_model.{k}": v for k, v in weights.items()}
    out.update(text)
    out.update({f"first_stage_model.{k}": v for k, v in vae.items()})
    return {k: v.contiguous() for k, v in sorted(out.items())}


def fresh(path, stamp):
    try:
        with safe_open(path, "pt") as f:
            return (f.metadata() or {}).get("pocket") == stamp
    except Exception:   # absent, or a half-written file of an older program
        return False


def write(path, stamp, make):
    """Writes the checkpoint that make() gives, whole or not at all, unless it is there with this stamp."""
    if not fresh(path, stamp):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        save_file(make(), part, metadata={"pocket": stamp})
        part.replace(path)


def ensure(folder):
    """-> {name: path} of the four checkpoints in `folder`, written where they are absent or stale."""
    stamp, text = digest(), functools.cache(text_state)
    part = functools.cache(lambda name: load_file(common.WEIGHTS / f"{name}.safetensors"))
    paths = {name: Path(folder) / f"{name}.safetensors" for name in NAMES}
    for name, path in paths.items():
        write(path, stamp, lambda n=name: checkpoint(unet_state(n, part("base")), text(), part("vae")))
    return paths


def main():
    for path in ensure(sys.argv[1] if len(sys.argv) > 1 else common.WORK / "checkpoints").values():
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
