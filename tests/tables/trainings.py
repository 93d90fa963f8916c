"""Aggregators trained briefly and alike through the trainer node: the ablations, and other numbers of experts."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.pocket import aggregator, assemble, common, folder

from .store import file_digest, fingerprint
from .world import BASE, EXPERTS, FOLDER, World


@dataclass(frozen=True)
class Training:
    """digest: of the experts, the pictures and the settings; the trainer's files bear it."""

    experts: tuple[str, ...]
    ablation: str
    digest: str

    @property
    def file(self) -> str:
        """What it ended with, not what was best on the held-out pictures: those judge the rows."""
        return f"{self.name}-last.safetensors"

    @property
    def name(self) -> str:
        return f"brief_{self.digest}"


FULL = "AFA, trained briefly"
ABLATIONS = {
    "only the last block": "only the last fusion point",
    "without spatial location": "without spatial location",
    "without timestep": "without the timestep",
    "without text": "without the text",
    FULL: "none",
}
"""Rows by the trainer's own names."""
ALL = (*EXPERTS, BASE)
CHANGES = {"batch_size": 16, "flip": False, "load_balance": 0.0}
"""Of the shipped aggregator's settings: more and smaller steps, a shorter preparation, and the published objective."""


def ablations(world: World) -> dict[str, Training]:
    return {title: _training(world, EXPERTS, ablation) for title, ablation in ABLATIONS.items()}


def by_number(world: World) -> dict[int, Training]:
    """For the first 2, 3 and 4 of the experts and the base."""
    return {number: _training(world, ALL[:number], "none") for number in (2, 3, 4)}


def train_all(world: World) -> None:
    """Trains what is not trained yet, and goes on where a stopped run was."""
    for training in dict.fromkeys((*ablations(world).values(), *by_number(world).values())):
        title = f"training of {len(training.experts)} experts, ablation {training.ablation}"
        world.store.row(title, training.digest, lambda t=training: _train(world, t))


def _train(world: World, training: Training) -> dict:
    steps = world.budget.training_steps
    report = aggregator.train(
        world.running, steps, minutes=600, experts=training.experts, save_as=training.name, ablation=training.ablation,
        evaluate_every=steps, save_every=50, resume="continue", prompt_folder=str(_pictures()), **CHANGES,
    )[2]  # fmt: skip
    world.running.release()
    return {"report": report}


def _training(world: World, experts: tuple[str, ...], ablation: str) -> Training:
    settings = {**aggregator.SETTINGS, **CHANGES}
    digest = fingerprint(
        assemble.digest(), _digest(_pictures()), settings, world.budget.training_steps, experts, ablation
    )
    return Training(experts, ablation, digest)


@cache
def _pictures() -> Path:
    """Every fifth subject of the folder that the shipped aggregator was trained on: brief trainings see no more."""
    source, place = folder.training(), FOLDER / "brief_folder"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with folder.one_at_a_time(), tempfile.TemporaryDirectory(dir=FOLDER) as draft:
        if not place.exists():
            whole = Path(draft, "pictures")
            for domain in common.DOMAINS:
                (whole / domain).mkdir(parents=True)
                codes = sorted({path.stem.split("_", 1)[1] for path in (source / domain).glob("*.png")})
                for path in (p for code in codes[::5] for p in (source / domain).glob(f"*_{code}.*")):
                    shutil.copy(path, whole / domain)
            shutil.copy(source / "held_out.txt", whole)
            whole.rename(place)
    return place


@cache
def _digest(source: Path) -> str:
    files = sorted(path for path in source.rglob("*") if path.is_file())
    return fingerprint([[str(path.relative_to(source)), file_digest(path)] for path in files])
