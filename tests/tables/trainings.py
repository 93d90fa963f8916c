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
    """settings: of the trainer node; digest: of the experts, the pictures and all settings; the trainer's files bear it."""

    title: str
    experts: tuple[str, ...]
    settings: dict
    digest: str

    @property
    def file(self) -> str:
        """What it ended with, not what was best on the held-out pictures: those judge the rows."""
        return f"{self.name}-last.safetensors"

    @property
    def name(self) -> str:
        return f"brief_{self.digest}"


FULL = "AFA, trained briefly"
ECONOMICAL = "AFA, economical"
ABLATIONS = {
    "only the last block": {"ablation": "only the last fusion point"},
    "without spatial location": {"ablation": "without spatial location"},
    "without timestep": {"ablation": "without the timestep"},
    "without text": {"ablation": "without the text"},
    ECONOMICAL: {"routing_stride": 4},
    FULL: {},
}
"""What the rows' trainings change of FULL's; the paper has all but the economical one."""
ALL = (*EXPERTS, BASE)
CHANGES = {"batch_size": 16, "flip": False, "load_balance": 0.0}
"""Of the shipped aggregator's settings: more and smaller steps, a shorter preparation, and the published objective."""


def ablations(world: World) -> dict[str, Training]:
    return {title: _training(world, title, EXPERTS, changed) for title, changed in ABLATIONS.items()}


def by_number(world: World) -> dict[int, Training]:
    """For the first 2, 3 and 4 of the experts and the base."""
    return {number: _training(world, f"AFA of {number} experts", ALL[:number], {}) for number in (2, 3, 4)}


def train_all(world: World) -> None:
    """Trains what is not trained yet, and goes on where a stopped run was."""
    trainings = (*by_number(world).values(), *ablations(world).values())
    for training in {training.digest: training for training in trainings}.values():
        world.store.row(f"training of {training.title}", training.digest, lambda t=training: _train(world, t))


def _train(world: World, training: Training) -> dict:
    steps = world.budget.training_steps
    report = aggregator.train(
        world.running, steps, minutes=600, experts=training.experts, save_as=training.name, evaluate_every=steps,
        save_every=50, resume="continue", prompt_folder=str(_pictures()), **CHANGES, **training.settings,
    )[2]  # fmt: skip
    world.running.release()
    return {"report": report}


def _training(world: World, title: str, experts: tuple[str, ...], changed: dict) -> Training:
    settings = {**aggregator.SETTINGS, **CHANGES, **changed}
    digest = fingerprint(assemble.digest(), _digest(_pictures()), settings, world.budget.training_steps, experts)
    return Training(title, experts, changed, digest)


@cache
def _pictures() -> Path:
    """Every second subject of the folder that the shipped aggregator was trained on: brief trainings see no more."""
    source, place = folder.training(), FOLDER / "every_second"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with folder.one_at_a_time(), tempfile.TemporaryDirectory(dir=FOLDER) as draft:
        if not place.exists():
            whole = Path(draft, "pictures")
            for domain in common.DOMAINS:
                (whole / domain).mkdir(parents=True)
                codes = sorted({path.stem.split("_", 1)[1] for path in (source / domain).glob("*.png")})
                for path in (p for code in codes[::2] for p in (source / domain).glob(f"*_{code}.*")):
                    shutil.copy(path, whole / domain)
            shutil.copy(source / "held_out.txt", whole)
            whole.rename(place)
    return place


@cache
def _digest(source: Path) -> str:
    files = sorted(path for path in source.rglob("*") if path.is_file())
    return fingerprint([[str(path.relative_to(source)), file_digest(path)] for path in files])
