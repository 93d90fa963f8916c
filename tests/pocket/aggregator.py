"""Trains the aggregator that ships with the pocket experts: python -m tests.pocket.aggregator [--minutes M]

Through the node, in a real ComfyUI in this process, from the captioned emoji; bounded, resumable, seeded.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.inprocess import Host
from tests.support.widgets import defaults

from . import assemble, common, folder

MODELS = [f"pocket_{domain}" for domain in common.DOMAINS]
NAME = "pocket"
SETTINGS = {
    "resolution": common.SIZE, "batch_size": 32, "hidden_size": 64, "num_layers": 1, "num_heads": 4,
    "learning_rate": 3e-4, "weight_decay": 0.01, "warmup_steps": 50, "caption_dropout": 0.1, "ema": 0.998, "load_balance": 0.2,
    "evaluate_every": 100, "save_every": 100, "gradient_checkpointing": False, "flip": True, "seed": 1,
}  # fmt: skip


EXPERT_DROPOUT = 0.3
"""Of the aggregator that ships, not of those that are compared."""


def host() -> Host:
    """ComfyUI in this process, with the pack, the pocket family and the pocket checkpoints."""
    base = make_base(common.WORK / "base")
    assemble.ensure(base / "models" / "checkpoints")
    running = Host(base)
    running.load_pack()
    return running


def load_experts(running: Host, names: Sequence[str] = MODELS) -> list[tuple]:
    """(model, clip, vae) of pocket checkpoints, by default of the experts."""
    return [running.call("CheckpointLoaderSimple", ckpt_name=f"{name}.safetensors") for name in names]


def train(running: Host, steps: int, minutes: float, experts: Sequence[str] = MODELS, **changes) -> tuple:
    """(aggregator file, plot, report) of the trainer node; stops well after `minutes`."""
    loaded = load_experts(running, experts)
    widgets = defaults("AFATrainer") | {f"model_{i}": model for i, (model, _, _) in enumerate(loaded, start=1)}
    widgets |= {"clip": loaded[0][1], "vae": loaded[0][2], "prompt_folder": str(folder.training()), "save_as": NAME}
    widgets |= {**SETTINGS, "steps": steps, **changes}
    _stop_after(running, minutes)
    return running.call("AFATrainer", **{name: [value] for name, value in widgets.items()})


def _stop_after(running: Host, minutes: float) -> None:
    """Presses the trainer's Stop button after a while."""
    import sys
    import threading

    live = next(module for name, module in sys.modules.items() if name.endswith("afa-ensemble.nodes.live"))

    def press() -> None:
        time.sleep(minutes * 60)
        live.TrainingFeed.latest_of_all.stop()

    threading.Thread(target=press, daemon=True).start()


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--minutes", type=float, default=35.0)
    ask.add_argument("--steps", type=int, default=2000)
    args = ask.parse_args()
    running = host()
    _, plot, report = train(running, args.steps, args.minutes, expert_dropout=EXPERT_DROPOUT)
    print(report)
    ship(Path(running.base, "models", "afa", f"{NAME}.safetensors"))
    _save(plot, common.WORK / "aggregator_loss.png")


def ship(trained: Path) -> None:
    """Beside the experts' weights, with their names, which a graph in ComfyUI would have given the trainer."""
    from afa_core.aggregator.file import load_aggregator, save_aggregator

    file = load_aggregator(trained)
    named = [{**expert, "file": f"{name}.safetensors"} for expert, name in zip(file.experts, MODELS, strict=True)]
    save_aggregator(replace(file, experts=named), common.WEIGHTS / "aggregator.safetensors")


def _save(image, path: Path) -> None:
    from PIL import Image

    Image.fromarray((image[0] * 255).byte().numpy()).save(path)


if __name__ == "__main__":
    main()
