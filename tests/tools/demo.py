"""The quick start on the scenes' near experts, through a live ComfyUI: pictures, routing panels, time per step.

    python -m tests.tools.demo [--prompt TEXT] [--steps N] [--seed N]

Saves the ensemble's picture, each expert's own with the same seed, and the panels in output/demo.
"""

import argparse
import io
import os
import shutil
import time
from pathlib import Path

from PIL import Image

from afa_core.aggregator.config import AggregatorConfig
from tests.pocket.scenes import checkpoints
from tests.support.aggregators import random_aggregator, write_authors_layout
from tests.support.comfy.bootstrap import CACHE, REPOSITORY, make_base
from tests.support.comfy.events import Events
from tests.support.comfy.server import LiveServer
from tests.support.comfy.templates import (
    Prompt,
    alone,
    find,
    template,
    with_aggregator,
    with_checkpoints,
    with_values,
)

EXPERTS = checkpoints.expert_names("near")
TRAINED = REPOSITORY / "tests" / "pocket" / "weights" / "scenes" / "aggregator.safetensors"
PROMPT = "left twemoji, cityscape at dusk, place other; right twemoji, dancer, person activity"
SIZE = {"width": 128, "height": 64}
OUTPUT = REPOSITORY / "output" / "demo"
CONFIG = AggregatorConfig("pocket", (*[64] * 12, 4), len(EXPERTS), text_width=64, time_width=256, hidden_size=64)
SAMPLING = {"sampler_name": "dpmpp_2m", "scheduler": "normal", "cfg": 3.0}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--prompt", default=PROMPT)
    ask.add_argument("--steps", type=int, default=20)
    ask.add_argument("--seed", type=int, default=1)
    args = ask.parse_args()
    base = prepare(CACHE / "demo")
    with LiveServer(base) as server:
        run(server, OUTPUT, args.prompt, args.steps, args.seed)


def prepare(base: Path) -> Path:
    """A base directory with the pocket checkpoints and the aggregators of the demo in it."""
    make_base(base)
    checkpoints.ensure(base / "models" / "checkpoints", EXPERTS)
    for name in ("trained.safetensors", "random_weights"):
        place = base / "models" / "afa" / name
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    if TRAINED.exists():
        (base / "models" / "afa" / "trained.safetensors").symlink_to(TRAINED)
    else:
        write_authors_layout(random_aggregator(CONFIG), base / "models" / "afa" / "random_weights")
    return base


def run(server: LiveServer, folder: Path, text: str, steps: int, seed: int) -> dict[str, Path]:
    """Runs the quick start and prints what it found; the pictures by name."""
    folder.mkdir(parents=True, exist_ok=True)
    prompt = with_checkpoints(
        template("quick_start", server.get("/object_info")), [f"{e}.safetensors" for e in EXPERTS]
    )
    changes = {
        "Prompt": {"text": text},
        "Negative prompt": {"text": ""},
        "EmptyLatentImage": SIZE,
        "KSampler": {**SAMPLING, "steps": steps, "seed": seed},
    }
    prompt = with_values(prompt, changes)
    loaders = find(prompt, "CheckpointLoaderSimple")
    runs = {expert: alone(prompt, loader) for expert, loader in zip(EXPERTS, loaders, strict=True)}
    if TRAINED.exists():
        runs["ensemble"] = with_aggregator(prompt, "trained.safetensors")
    else:
        runs["ensemble"] = prompt  # block average, as the template has it
        runs["ensemble_random"] = with_aggregator(prompt, "random_weights")
    print(f"{text!r}, {steps} steps, seed {seed}")
    pictures = {}
    for name, graph in runs.items():
        history, seconds = timed(server, graph)
        pictures[name] = save(server, history, find(graph, "SaveImage"), folder / f"{name}.png")
        print(f"{name:>24}: {1000 * seconds:6.1f} ms per step  {pictures[name]}")
        if panels := find(graph, "PreviewImage"):
            pictures[f"{name}_routing"] = save(server, history, panels, folder / f"{name}_routing.png")
            print(f"{name + '_routing':>24}: {pictures[name + '_routing']}")
    return pictures


def timed(server: LiveServer, prompt: Prompt) -> tuple[dict, float]:
    """The history of a prompt, and the seconds a sampling step took, loading apart."""
    (sampler,) = find(prompt, "KSampler")
    with Events(server) as events:
        prompt_id = server.queue(prompt)
        seconds = events.per_step(sampler, prompt[sampler]["inputs"]["steps"], time.perf_counter)
        return server.wait(prompt_id), seconds


def save(server: LiveServer, history: dict, node_ids: list[str], path: Path) -> Path:
    """The first picture of these nodes; where they have several, side by side."""
    pictures = [Image.open(io.BytesIO(data)) for node_id in node_ids for data in server.images(history, node_id)]
    sheet = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)))
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    sheet.save(path)
    return path


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
