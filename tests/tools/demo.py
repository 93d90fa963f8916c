"""The quick start on the small experts, through a live ComfyUI: pictures, routing panels, time per step.

    python -m tests.tools.demo [--prompt TEXT] [--steps N] [--seed N]

Once with the scenes' near experts, which are U-Nets, and once with the DiTs. Saves each ensemble's picture, every expert's
own with the same seed, and the panels in output/demo.
"""

import argparse
import io
import os
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.pocket.scenes import checkpoints
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

WEIGHTS = REPOSITORY / "tests" / "pocket" / "weights"
EXPERTS = checkpoints.expert_names("near")
TRAINED = WEIGHTS / "scenes" / "aggregator.safetensors"
PROMPT = "left twemoji, man running, person activity; right twemoji, notebook, book paper"
SIZE = {"width": 128, "height": 64}
OUTPUT = REPOSITORY / "output" / "demo"
SAMPLING = {"sampler_name": "dpmpp_2m", "scheduler": "normal", "cfg": 3.0}


@dataclass(frozen=True)
class Ensemble:
    """Checkpoints, and the file of the aggregator that was trained for them."""

    name: str
    experts: list[str]
    aggregator: Path

    @property
    def file(self) -> str:
        """The aggregator's, in the server's folder."""
        return f"{self.name}.safetensors"


ENSEMBLES = (
    Ensemble("ensemble", EXPERTS, TRAINED),
    Ensemble("dit_ensemble", checkpoints.expert_names("dit"), WEIGHTS / "dit" / "aggregator.safetensors"),
)


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
    """A base directory with the small checkpoints and their aggregators in it."""
    make_base(base)
    for ensemble in ENSEMBLES:
        checkpoints.ensure(base / "models" / "checkpoints", ensemble.experts)
        place = base / "models" / "afa" / ensemble.file
        place.unlink(missing_ok=True)
        place.symlink_to(ensemble.aggregator)
    return base


def run(server: LiveServer, folder: Path, text: str, steps: int, seed: int) -> dict[str, Path]:
    """Runs the quick start with each ensemble and prints what it found; the pictures by name."""
    folder.mkdir(parents=True, exist_ok=True)
    changes = {
        "Prompt": {"text": text},
        "Negative prompt": {"text": ""},
        "EmptyLatentImage": SIZE,
        "KSampler": {**SAMPLING, "steps": steps, "seed": seed},
    }
    prompt = with_values(template("quick_start", server.get("/object_info")), changes)
    print(f"{text!r}, {steps} steps, seed {seed}")
    pictures = {}
    for ensemble in ENSEMBLES:
        pictures |= paint(server, folder, prompt, ensemble)
    return pictures


def paint(server: LiveServer, folder: Path, prompt: Prompt, ensemble: Ensemble) -> dict[str, Path]:
    """The pictures of the experts and of their ensemble, and its routing."""
    prompt = with_checkpoints(prompt, [f"{expert}.safetensors" for expert in ensemble.experts])
    loaders = find(prompt, "CheckpointLoaderSimple")
    runs = {expert: alone(prompt, loader) for expert, loader in zip(ensemble.experts, loaders, strict=True)}
    runs[ensemble.name] = with_aggregator(prompt, ensemble.file)
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
