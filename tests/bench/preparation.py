"""What the trainer's data preparation costs beside the VAE and the text encoder themselves, and a second time."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.tables import learners
from tests.tables.search import RESOLUTION

from .measure import interleaved, ratios, spread
from .near import Near

PAIRS = 120


def bench_preparation(rounds: int = 3) -> list[str]:
    near = Near.start()
    import folder_paths  # the host's, there since the start

    pictures = learners.folder(PAIRS)
    files = sorted(pictures.rglob("*.png"))
    with tempfile.TemporaryDirectory() as place:

        def first() -> None:
            folder_paths.set_user_directory(tempfile.mkdtemp(dir=place))
            prepared(near, pictures)

        candidates = {
            "the encoders alone": lambda: encoded(near, files),
            "first": first,
            "again": lambda: prepared(near, pictures),
        }
        seconds = interleaved(candidates, rounds)
    once, again = (spread(ratios(seconds[name], seconds["the encoders alone"])) for name in ("first", "again"))
    return [
        f"Preparing {len(files)} captioned pictures for the trainer / decoding them and running the VAE and the text encoder on each: "
        f"{once} the first time, {again} when they are cached. The encoders here are small, so what is ours "
        "weighs more here than beside full-size ones."
    ]


def prepared(near: Near, pictures: Path) -> None:
    from afa_core.host.training.encoding import DatasetSettings, prepare_dataset
    from afa_core.training.data.prompt_folder import read_prompt_folder

    _, clip, vae = near.loaded[0]
    settings = DatasetSettings(resolution=RESOLUTION, batch_size=16, held_out=0.0)
    prepare_dataset(near.experts, clip, vae, read_prompt_folder(pictures), settings)


@torch.inference_mode()
def encoded(near: Near, files: list[Path]) -> None:
    """One picture and one caption at a time, as the host's own nodes would."""
    _, clip, vae = near.loaded[0]
    for file in files:
        picture = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).float() / 255
        vae.encode(picture[None])
        clip.encode_from_tokens_scheduled(clip.tokenize(file.with_suffix(".txt").read_text()))
