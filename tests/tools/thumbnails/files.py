"""A live server with the files that the templates name, taken from the scenes' near experts."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.pocket.scenes import checkpoints
from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.server import LiveServer
from tests.support.stand_ins import NET, stand_ins
from tests.tools.demo import EXPERTS, TRAINED


@contextmanager
def server() -> Iterator[LiveServer]:
    """In place of what tests/support/stand_ins.py makes at random: the trained aggregator, and LoRAs taken out of experts."""
    with tempfile.TemporaryDirectory() as scratch:
        base = make_base(Path(scratch))
        models = base / "models"
        paths = checkpoints.ensure(models / "checkpoints", [checkpoints.BASE, *EXPERTS])
        with stand_ins(base, EXPERTS, [checkpoints.BASE] * 2, checkpoints.BASE), LiveServer(base) as running:
            (models / "afa" / "your_aggregator_1_2_3.safetensors").write_bytes(TRAINED.read_bytes())
            for number, expert in enumerate(EXPERTS, start=1):
                state = extracted_lora(paths[expert], paths[checkpoints.BASE])
                save_file(state, models / "loras" / f"your_lora_{number}.safetensors")
            yield running


def extracted_lora(expert: Path, base: Path, rank: int = 16) -> dict[str, torch.Tensor]:
    """What makes an expert of its base, in every matrix of the U-Net, as the LoRA of this rank that is nearest to it."""
    one, other = load_file(expert), load_file(base)
    state = {}
    for key in one:
        if not (key.startswith(NET) and key.endswith(".weight") and one[key].ndim == 2):
            continue
        u, s, v = torch.linalg.svd(one[key].float() - other[key].float(), full_matrices=False)
        name = "diffusion_model." + key.removeprefix(NET).removesuffix(".weight")
        state[f"{name}.lora_up.weight"] = (u * s)[:, :rank].contiguous()
        state[f"{name}.lora_down.weight"] = v[:rank].contiguous()
    return state
