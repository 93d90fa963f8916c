"""A training in a process of its own, to be killed: python -m tests.support.toy_training [KILLS] kills it so often."""

from pathlib import Path

from afa_core.aggregator.file import load_aggregator
from afa_core.training.session import Keeping, fit
from afa_core.training.state import TrainingSettings
from afa_core.training.tasks.aggregator import AggregatorSettings, AggregatorTask
from tests.support import killing
from tests.support.training_toys import CONFIG, ToyExperts, toy_dataset

MODULE = "tests.support.toy_training"
SOURCES = [{"file": "a"}, {"file": "b"}]


def task(seed: int, **changes) -> AggregatorTask:
    return AggregatorTask(ToyExperts(), CONFIG, SOURCES, AggregatorSettings(**changes), seed)


def run(folder: Path, steps: int, listen=lambda report: None, resume: str = "continue", data=None, **changes):
    ours = {name: changes.pop(name) for name in AggregatorSettings.__dataclass_fields__ if name in changes}
    settings = TrainingSettings(
        **{"steps": steps, "batch_size": 2, "learning_rate": 3e-3, "warmup_steps": 2, "evaluate_every": 5, **changes}
    )
    keeping = Keeping(folder / "toy.safetensors", resume, 3, data or {})
    return fit(task(settings.seed, **ours), toy_dataset(), settings, keeping, listen)


def kill(kills: int) -> None:
    killing.kill(MODULE, run, load_aggregator, kills)


if __name__ == "__main__":
    killing.main(MODULE, run, load_aggregator)
