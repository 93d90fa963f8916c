"""A training in a process of its own, to be killed: python tests/toy_training.py FOLDER STEPS SECONDS_A_STEP."""

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from afa_core.training.loop import TrainingSettings
from afa_core.training.session import fit
from tests.support.training_toys import CONFIG, ToyExperts, toy_dataset

IDENTITY = {"experts": [{"file": "a"}, {"file": "b"}], "data": "toy"}


def run(folder: Path, steps: int, tell=lambda report, aggregator: None, resume: str = "continue", **changes):
    settings = TrainingSettings(
        **{"steps": steps, "batch_size": 2, "learning_rate": 3e-3, "warmup_steps": 2, "evaluate_every": 5, **changes}
    )
    path = folder / "toy.safetensors"
    return fit(ToyExperts(), toy_dataset(), CONFIG, settings, IDENTITY, path, resume, 3, tell)


if __name__ == "__main__":
    torch.set_num_threads(1)
    pause = float(sys.argv[3])

    def slowly(report, aggregator) -> None:
        print(report.state.step, flush=True)
        time.sleep(pause)

    run(Path(sys.argv[1]), int(sys.argv[2]), slowly)
