"""A training in a process of its own, to be killed: python -m tests.support.toy_training FOLDER STEPS SECONDS_A_STEP."""

import sys
import time
from pathlib import Path

import torch

from afa_core.training.session import Keeping, fit
from afa_core.training.state import TrainingSettings
from afa_core.training.tasks.aggregator import AggregatorSettings, AggregatorTask
from tests.support.training_toys import CONFIG, ToyExperts, toy_dataset

SOURCES = [{"file": "a"}, {"file": "b"}]


def task(seed: int, **changes) -> AggregatorTask:
    return AggregatorTask(ToyExperts(), CONFIG, SOURCES, AggregatorSettings(**changes), seed)


def run(folder: Path, steps: int, listen=lambda report: None, resume: str = "continue", **changes):
    ours = {name: changes.pop(name) for name in AggregatorSettings.__dataclass_fields__ if name in changes}
    settings = TrainingSettings(
        **{"steps": steps, "batch_size": 2, "learning_rate": 3e-3, "warmup_steps": 2, "evaluate_every": 5, **changes}
    )
    keeping = Keeping(folder / "toy.safetensors", resume, 3)
    return fit(task(settings.seed, **ours), toy_dataset(), settings, keeping, listen)


if __name__ == "__main__":
    torch.set_num_threads(1)
    pause = float(sys.argv[3])

    def slowly(report) -> None:
        print(report.state.step, flush=True)
        time.sleep(pause)

    run(Path(sys.argv[1]), int(sys.argv[2]), slowly)
