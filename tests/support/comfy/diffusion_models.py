"""Toy transformers with random weights for the host's UNETLoader, and text encoders and a VAE for them, made once and cached.

`python -m tests.support.comfy.diffusion_models` makes them all again.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .bootstrap import MODELS, REPOSITORY, make_base
from .checkpoints import randomised, vae_state

FOLDER = MODELS / "diffusion_models"
TEXT = MODELS / "text_encoders"
VAE = MODELS / "vae" / "tiny_16_channels.safetensors"

# name: (family of tiny_transformers, seed)
TOYS = {
    "tiny_flux_a": ("TinyFlux", 110),
    "tiny_flux_b": ("TinyFlux", 120),
    "tiny_flux_c": ("TinyFlux", 130),
    "tiny_schnell_a": ("TinySchnell", 140),
    "tiny_chroma_a": ("TinyChroma", 150),
    "tiny_chroma_b": ("TinyChroma", 160),
    "tiny_lumina_a": ("TinyLumina", 170),
    "tiny_lumina_b": ("TinyLumina", 180),
    "tiny_zimage_a": ("TinyZImage", 190),
    "tiny_zimage_b": ("TinyZImage", 200),
    "tiny_qwen_a": ("TinyQwen", 210),
    "tiny_qwen_b": ("TinyQwen", 220),
    "tiny_cosmos_a": ("TinyCosmos", 230),
    "tiny_cosmos_b": ("TinyCosmos", 240),
    "tiny_cosmos_c": ("TinyCosmos", 250),
    "tiny_anima_a": ("TinyAnima", 260),
    "tiny_anima_b": ("TinyAnima", 270),
    "tiny_anima_c": ("TinyAnima", 280),
    "tiny_krea2_a": ("TinyKrea2", 290),
    "tiny_krea2_b": ("TinyKrea2", 300),
}

NEWER = ("TinyAnima", "TinyKrea2")
"""Families that came to ComfyUI after its oldest supported version, Krea 2 last."""

_SOURCES = [Path(__file__), *sorted((REPOSITORY / "tests" / "support" / "comfy" / "tiny_transformers").glob("*.py"))]


def ensure_diffusion_models() -> None:
    """Makes the toys unless those of exactly these sources lie in the cache; in a process of its own."""
    stamp = FOLDER / "made-from"
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()
    if not stamp.is_file() or stamp.read_text() != sources:
        subprocess.run([sys.executable, "-m", "tests.support.comfy.diffusion_models"], cwd=REPOSITORY, check=True)
        stamp.write_text(sources)


def is_known(name: str) -> bool:
    """Whether the host at hand has the family of a toy."""
    import comfy.supported_models

    return TOYS[name][0] not in NEWER or hasattr(comfy.supported_models, "Krea2")


def _make(name: str, families) -> Path:
    import torch

    import comfy.ops

    kind, seed = TOYS[name]
    network = families.build(families.by_name(kind), comfy.ops.disable_weight_init, torch.float32)
    for key, parameter in randomised(network, seed).named_parameters():
        if key.endswith(".scale"):  # what norms of Flux call their weight
            parameter.data += 1
    state = {key: value.half().contiguous() for key, value in network.state_dict().items()}
    return _save(state, FOLDER / f"{name}.safetensors")


def _make_text_encoder(name: str, network) -> Path:
    state = {key: tensor.half() for key, tensor in randomised(network, 1).state_dict().items() if tensor.is_floating_point()}
    return _save(state, TEXT / f"{name}.safetensors")


def _save(state, path: Path) -> Path:
    import comfy.utils

    path.parent.mkdir(parents=True, exist_ok=True)
    half_made = path.with_suffix(f".{os.getpid()}")
    comfy.utils.save_torch_file(state, str(half_made))
    return half_made.rename(path)


def main():
    with tempfile.TemporaryDirectory() as base:
        from .inprocess import Host, _module_name

        host = Host(make_base(Path(base)))  # for the families
        families = sys.modules[_module_name(host.base / "custom_nodes" / "tiny_transformers")]
        names = [name for name in TOYS if is_known(name)]
        made = [_save(vae_state(channels=16), VAE), *(_make(name, families) for name in names)]
        made += [_make_text_encoder(name, network) for name, network in families.text.states().items()]
        for path in made:
            print(f"{path} {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
