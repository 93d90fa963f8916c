"""What the trainer's data preparation costs beside the VAE and the text encoder themselves, and a second time."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.pocket import folder

from .measure import interleaved, ratios, spread
from .pocket import Pocket


def bench_preparation(rounds: int = 3) -> list[str]:
    pocket = Pocket.start()
    import folder_paths  # the host's, there since the start

    pictures = folder.held_out()
    files = sorted(pictures.rglob("*.png"))
    with tempfile.TemporaryDirectory() as place:

        def first() -> None:
            folder_paths.set_user_directory(tempfile.mkdtemp(dir=place))
            pocket.dataset(pictures)

        candidates = {
            "the encoders alone": lambda: encoded(pocket, files),
            "first": first,
            "again": lambda: pocket.dataset(pictures),
        }
        seconds = interleaved(candidates, rounds)
    once, again = (spread(ratios(seconds[name], seconds["the encoders alone"])) for name in ("first", "again"))
    return [
        f"Preparing {len(files)} captioned pictures for the trainer / decoding them and running the VAE and the text encoder on each: "
        f"{once} the first time, {again} when they are cached. The pocket experts' encoders are small, so what is ours "
        "weighs more here than beside full-size ones."
    ]


@torch.inference_mode()
def encoded(pocket: Pocket, files: list[Path]) -> None:
    """One picture and one caption at a time, as the host's own nodes would."""
    _, clip, vae = pocket.loaded[0]
    for file in files:
        picture = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).float() / 255
        vae.encode(picture[None])
        clip.encode_from_tokens_scheduled(clip.tokenize(file.with_suffix(".txt").read_text()))
