"""Toy checkpoints with random weights for the real CheckpointLoaderSimple, made once and cached.

`python -m tests.support.comfy.checkpoints` makes them all again.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .bootstrap import MODELS, REPOSITORY, make_base

FOLDER = MODELS / "checkpoints"

# name: (family of tiny_families, seed or number of the golden expert, v-prediction)
TOYS = {
    "tiny_sd15_a": ("TinySD15", 10, False),
    "tiny_sd15_b": ("TinySD15", 20, False),
    "tiny_sd15_c": ("TinySD15", 30, False),
    "tiny_sd15_v": ("TinySD15", 40, True),
    "tiny_sd2_a": ("TinySD2", 50, False),
    "tiny_sd2_b": ("TinySD2", 60, False),
    "tiny_sdxl_a": ("TinySDXL", 70, False),
    "tiny_sdxl_b": ("TinySDXL", 80, False),
    "golden_0": ("Golden", 0, False),
    "golden_1": ("Golden", 1, False),
    "golden_2": ("Golden", 2, False),
    "golden_3": ("Golden", 3, False),
}

_SOURCES = [
    Path(__file__),
    REPOSITORY / "tests" / "support" / "comfy" / "tiny_families" / "__init__.py",
    REPOSITORY / "tests" / "golden" / "goldweights.py",
]

_SD15_TOPOLOGY = {
    "num_res_blocks": [2] * 4,
    "transformer_depth": [1] * 6 + [0] * 2,
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1,
}
_UNETS = {
    "TinySD15": {**_SD15_TOPOLOGY, "channel_mult": [1, 1, 1, 1]},
    "TinySD2": {**_SD15_TOPOLOGY, "channel_mult": [1, 1, 1, 1]},
    "TinySDXL": {
        "num_res_blocks": [2] * 3,
        "channel_mult": [1, 1, 1],
        "transformer_depth": [0, 0, 1, 1, 2, 2],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
        "transformer_depth_middle": 2,
        "num_classes": "sequential",
    },
}


def ensure_checkpoints() -> None:
    """Makes the toys unless those of exactly these sources lie in the cache.

    In a process of its own, because it needs a host, and importing one is for good.
    """
    stamp = FOLDER / "made-from"
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()
    if not stamp.is_file() or stamp.read_text() != sources:
        subprocess.run([sys.executable, "-m", "tests.support.comfy.checkpoints"], cwd=REPOSITORY, check=True)
        stamp.write_text(sources)


def randomised(module, seed):
    """Weights of unit gain; norms and biases random too, so that nothing is left out unnoticed."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.copy_(0.1 * noise + (1.0 if name.endswith("weight") else 0.0))
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
    return module


def _unet_state(family, seed):
    import torch

    from comfy import ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    if family.__name__ == "Golden":
        from tests.golden.goldweights import expert_state

        return {key: torch.from_numpy(value) for key, value in expert_state(seed).items()}
    shape = {**_UNETS[family.__name__], **family.unet_config, **family.unet_extra_config}
    del shape["use_temporal_attention"]
    fixed = {"image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "legacy": False}
    unet = UNetModel(**fixed, **shape, dtype=torch.float32, operations=ops.disable_weight_init)
    return randomised(unet, seed).state_dict()


def vae_state(channels: int = 4):
    """TAESD, which the host recognises by its keys: the widths of the full VAE are fixed. The same for every toy."""
    from comfy.taesd.taesd import TAESD

    vae = randomised(TAESD(latent_channels=channels), 1)
    vae.vae_scale.data.fill_(1.0)
    vae.vae_shift.data.fill_(0.0)
    return vae.state_dict()


def _make(family, seed, v_prediction, path):
    import torch

    import comfy.utils

    config = family({})
    clip = randomised(family.text_model(dtype=torch.float32), seed + 1)
    state = config.process_unet_state_dict_for_saving(_unet_state(family, seed))
    state |= config.process_clip_state_dict_for_saving(clip.state_dict())
    state |= config.process_vae_state_dict_for_saving(vae_state())
    state = {key: value.half().contiguous() for key, value in state.items()}
    if v_prediction:
        state["v_pred"] = torch.zeros(1)
    half_made = path.with_suffix(f".{os.getpid()}")
    comfy.utils.save_torch_file(state, str(half_made))
    half_made.rename(path)


def main():
    with tempfile.TemporaryDirectory() as base:
        from .inprocess import Host

        Host(make_base(Path(base)))  # for the families
        import comfy.supported_models

        families = {family.__name__: family for family in comfy.supported_models.models}
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name, (family, seed, v_prediction) in TOYS.items():
            path = FOLDER / f"{name}.safetensors"
            _make(families[family], seed, v_prediction, path)
            print(f"{path} {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
