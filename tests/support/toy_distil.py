"""A distillation in a process of its own, to be killed: python -m tests.support.toy_distil [KILLS] kills it so often.

A toy student with real adapters' names, and labels that need no ensemble: what is resumed is the node's task.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from afa_core.training.labels import LabelledDataset, item_draws
from afa_core.training.session import Keeping, fit
from afa_core.training.state import TrainingSettings
from afa_core.training.tasks.distil import DistilTask, Lessons
from tests.support.killing import killed
from tests.support.training_toys import ToyExperts, computed_steps, toy_dataset

STEPS, RANK = 17, 2


class Adapter(nn.Module):
    """Of a 3x3 convolution's weight [o, i, 3, 3]; starts at nothing."""

    def __init__(self, weight: Tensor, seed: int):
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        self.shape = weight.shape
        self.lora_up, self.lora_down = nn.Linear(RANK, rows, bias=False), nn.Linear(columns, RANK, bias=False)
        nn.init.zeros_(self.lora_up.weight)
        nn.init.normal_(self.lora_down.weight, std=0.1, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("alpha", torch.tensor(float(RANK)))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.lora_up.weight @ self.lora_down.weight).view(self.shape)


class ToyStudent(ToyExperts):
    labels = ["The student"]

    def __init__(self) -> None:
        super().__init__()
        del self.experts[1:]
        weights = dict(enumerate(self.experts[0].weights))
        self.adapters = nn.ModuleDict({f"diffusion_model/{i}/weight": Adapter(w, i) for i, w in weights.items()})
        self.experts[0].stream = self.stream

    def stream(self, x: Tensor):
        own = self.experts[0].weights
        *inner, last = (adapter(weight) for adapter, weight in zip(self.adapters.values(), own, strict=True))
        for weight in inner:
            x = yield torch.tanh(nn.functional.conv2d(x, weight, padding=1))
        yield nn.functional.conv2d(x, last, padding=1)


class NoiseLabels:
    """A bad teacher, which predicts half of the noise turned round: who learns from it denoises worse."""

    def __init__(self, data):
        self.data = data

    def labels(self, item: int) -> dict[str, Tensor]:
        draw, _ = item_draws(self.data, item)
        single = {"single_0": draw.noise.half()} if self.data.items[item].held_out else {}
        return {"labels": (-draw.noise / 2).half(), **single}


def run(folder: Path, steps: int = STEPS, listen=lambda report: None, data_only: bool = False):
    """(what was exported, state) of a distillation that is kept in `folder`."""
    data = toy_dataset()
    data = replace(data, plan=replace(data.plan, variants=3))
    student = ToyStudent()
    shapes = {key.replace("/", "."): adapter.shape for key, adapter in student.adapters.items()}
    lessons = Lessons(["model_1"], lambda label, sigma, noisy: label, data_only=data_only)
    task = DistilTask(student, student.adapters, shapes, lessons, {"teacher": "noise"})
    settings = TrainingSettings(steps, 2, learning_rate=3e-3, warmup_steps=2, ema=0.9, evaluate_every=5)
    keeping = Keeping(folder / "toy.safetensors", save_every=3)
    return fit(task, LabelledDataset(data, NoiseLabels(data)), settings, keeping, listen)


def kill(kills: int) -> None:
    """Kills a distillation at random moments; whatever lies there then is whole, and goes on to the same weights."""
    dice, ended, resumed = random.Random(5), 0, 0
    with TemporaryDirectory() as place:
        whole = Path(place, "whole")
        whole.mkdir()
        _, expected = run(whole)
        for number in range(kills):
            folder = Path(place, f"run {number}")
            folder.mkdir()
            child = ["-m", "tests.support.toy_distil", "child", str(folder)]
            ended += killed(child, dice.randint(1, STEPS), dice.uniform(0, 0.03))
            for visible in folder.glob("*.safetensors"):
                assert load_file(visible)
            begun = (folder / "toy.resume").exists()
            with computed_steps() as steps:
                _, state = run(folder)
            assert (len(steps) < STEPS) == begun
            resumed += 0 < len(steps) < STEPS
            assert state.losses == expected.losses and state.evaluations == expected.evaluations
            for name in ("toy.safetensors", "toy-last.safetensors"):
                one, other = load_file(folder / name), load_file(whole / name)
                assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
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

    run(Path(sys.argv[2]), listen=slowly)


if __name__ == "__main__":
    main()
