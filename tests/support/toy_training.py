"""A training in a process of its own, to be killed: python -m tests.support.toy_training [KILLS] kills it so often."""

import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from afa_core.aggregator.file import load_aggregator
from afa_core.training.session import Keeping, fit
from afa_core.training.state import TrainingSettings
from afa_core.training.tasks.aggregator import AggregatorSettings, AggregatorTask
from tests.support.killing import killed
from tests.support.training_toys import CONFIG, ToyExperts, computed_steps, same_weights, toy_dataset

SOURCES = [{"file": "a"}, {"file": "b"}]
STEPS = 17


def task(seed: int, **changes) -> AggregatorTask:
    return AggregatorTask(ToyExperts(), CONFIG, SOURCES, AggregatorSettings(**changes), seed)


def run(folder: Path, steps: int, listen=lambda report: None, resume: str = "continue", **changes):
    ours = {name: changes.pop(name) for name in AggregatorSettings.__dataclass_fields__ if name in changes}
    settings = TrainingSettings(
        **{"steps": steps, "batch_size": 2, "learning_rate": 3e-3, "warmup_steps": 2, "evaluate_every": 5, **changes}
    )
    keeping = Keeping(folder / "toy.safetensors", resume, 3)
    return fit(task(settings.seed, **ours), toy_dataset(), settings, keeping, listen)


def kill(kills: int) -> None:
    """Kills a training at random moments: what lies there then is whole, and goes on, not anew, to the same weights."""
    dice, ended, resumed = random.Random(5), 0, 0
    with TemporaryDirectory() as place:
        whole = Path(place, "whole")
        whole.mkdir()
        expected, undisturbed = run(whole, STEPS)
        for number in range(kills):
            folder = Path(place, f"run {number}")
            folder.mkdir()
            child = ["-m", "tests.support.toy_training", "child", str(folder)]
            ended += killed(child, dice.randint(1, STEPS), dice.uniform(0, 0.03))
            for visible in folder.glob("*.safetensors"):
                load_aggregator(visible)
            begun = (folder / "toy.resume").exists()
            with computed_steps() as steps:
                file, state = run(folder, STEPS)
            assert (len(steps) < STEPS) == begun
            resumed += 0 < len(steps) < STEPS
            assert same_weights(file.state, expected.state)
            assert state.losses == undisturbed.losses
    assert ended, "every training had ended before it was killed"
    assert resumed, "every training was begun anew"


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:2] != ["child"]:
        kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
        kill(kills)
        print(f"{kills} kills, each resumed to the same weights")
        return

    def slowly(report) -> None:
        print(report.state.step, flush=True)
        time.sleep(0.01)

    run(Path(sys.argv[2]), STEPS, slowly)


if __name__ == "__main__":
    main()
