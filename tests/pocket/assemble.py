"""Full checkpoints that CheckpointLoaderSimple reads, float16, the same bytes every time, from the parts in weights/.

Needs neither the host nor the training set.
"""
import hashlib
import os

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

TOKENS_IN_ALL = 49408


def digest(parts):
    """SHA-256 over committed weights: written into every checkpoint, so that stale ones are noticed."""
    out = hashlib.sha256()
    for path in parts:
        out.update(path.name.encode())
        out.update(path.read_bytes())
    return out.hexdigest()


def text_state(path):
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
