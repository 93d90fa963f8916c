"""A distillation in a process of its own, to be killed: python -m tests.support.toy_distil [KILLS] kills it so often.

A toy student with real adapters' names, and labels that need no ensemble: what is resumed is the node's task.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from afa_core.training.labels import LabelledDataset, item_draws
from afa_core.training.session import Keeping, fit
from afa_core.training.state import TrainingSettings
from afa_core.training.tasks.distil import DistilTask, Lessons
from tests.support import killing
from tests.support.killing import STEPS
from tests.support.training_toys import ToyExperts, toy_dataset

MODULE = "tests.support.toy_distil"
RANK = 2


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
    killing.kill(MODULE, run, load_file, kills)


if __name__ == "__main__":
    killing.main(MODULE, run, load_file)
