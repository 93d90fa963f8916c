"""The trainer node on two toys and a dozen pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from afa_core.aggregator.file import load_aggregator
from tests.support.widgets import defaults

STEPS = 4


def twelve_pictures(folder: Path) -> Path:
    for i in range(12):
        Image.new("RGB", (64, 64), (20 * i, 100, 255 - 20 * i)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture {i}")
    return folder


WHOLE = {"ablation": "none", "gradient_checkpointing": True}
"""Widgets with which every fusion point learns, through the experts' blocks behind it."""


class Trainer:
    """AFATrainer on two toys. Only the last fusion point learns, which takes less time, unless WHOLE is asked for."""

    def __init__(self, host, pictures):
        self.host, self.folder = host, host.base / "models" / "afa"
        parts = [
            host.call("CheckpointLoaderSimple", ckpt_name=f"{name}.safetensors")
            for name in ("tiny_sd15_a", "tiny_sd15_b")
        ]
        self.models = [part[0] for part in parts]
        self.widgets = {
            **defaults("AFATrainer"),
            "model_1": self.models[0], "model_2": self.models[1], "clip": parts[0][1], "vae": parts[0][2],
            "prompt_folder": str(pictures), "resolution": 64, "steps": STEPS, "batch_size": 2, "hidden_size": 64,
            "num_layers": 1, "num_heads": 4, "learning_rate": 1e-3, "evaluate_every": 2, "save_every": 1,
            "ablation": "only the last fusion point", "gradient_checkpointing": False,
        }  # fmt: skip

    def run(self, name: str, **changes):
        """The trained aggregator."""
        widgets = {**self.widgets, "save_as": name, **changes}
        return self.host.call("AFATrainer", **{key: [value] for key, value in widgets.items()})[0]

    def error_of(self, error: type[BaseException], name: str, **changes) -> str:
        """What a training fails with; whatever is on disk then is whole."""
        with pytest.raises(error) as failure:
            self.run(name, **changes)
        assert not list(self.folder.glob(".*.part"))
        for path in self.folder.glob(f"{name}*.safetensors"):
            load_aggregator(path)
        return str(failure.value)
