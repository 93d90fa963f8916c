"""A training step on a GPU that is not there: what it casts, and what the CPU waits for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from tests.support.fake_gpu import counted, fake_gpu, to_fake_gpu

from .models import PUBLISHED

SIDE, BATCH = 64, 2


class TrainingCounts(NamedTuple):
    """Of one step. casts: of the forward pass; before: what the CPU waited for before the backward pass"""

    casts: int
    before: int
    in_all: int


class RandomData:
    """Batches of SD1.5's shapes, on the CPU as a dataset's are."""

    digest = ""

    def __init__(self, experts: int):
        self.experts = experts

    def train_batch(self, step: int):
        from afa_core.training.data.dataset import Batch

        text = {"c_crossattn": torch.zeros(BATCH, 77, 768), "y": None}
        return Batch([0] * BATCH, torch.zeros(BATCH, 4, SIDE, SIDE), [text] * self.experts, torch.zeros(BATCH) > 0)


def training_counts(experts: list) -> TrainingCounts:
    """One step of the trainer, by its node's defaults, on these experts, whose weights lie on the fake GPU.

    Autograd's backward pass needs a real one: gradients are put in its place. It asks nothing of the CPU by itself, and
    what a checkpoint computes again is the forward pass that was counted.
    """
    from afa_core.host.training.frozen_experts import outside_inference
    from afa_core.training.loop import training_step

    with outside_inference(), _training(experts) as training, fake_gpu(), pinned():
        forward: list[tuple[int, int]] = []

        def backward(loss: Tensor) -> None:
            forward.append((counts.casts, counts.waits.total()))
            for weight in training.task.module.parameters():
                weight.grad = torch.empty_like(weight)

        with patch.object(Tensor, "backward", backward), counted() as counts:
            training_step(training)
    return TrainingCounts(*forward[-1], counts.waits.total())


@contextmanager
def _training(experts: list) -> Iterator:
    from afa_core.host.training import frozen_experts
    from afa_core.training.state import Training, TrainingSettings, TrainingState
    from afa_core.training.tasks.aggregator import AggregatorSettings, AggregatorTask
    from tests.support.ensembles import config_for

    config = config_for(experts[0].patcher, len(experts), **PUBLISHED, identity_bias=True)
    with patch.object(frozen_experts, "check_experts"):  # reads their noise levels, and fake tensors hold none
        frozen = frozen_experts.HostExperts(experts, checkpointing=True)
    gpu, frozen.device = frozen.device, torch.device("cpu")
    task = AggregatorTask(frozen, config, [], AggregatorSettings(drop_points=True), seed=0)
    task.device = frozen.device = gpu
    with fake_gpu():
        to_fake_gpu(task.module)
    training = Training(task, RandomData(len(experts)), TrainingSettings(), TrainingState({}))
    try:
        yield training
    finally:
        training.feed.close()


@contextmanager
def pinned() -> Iterator[None]:
    """Memory is pinned where it is asked to be, which PyTorch does with a GPU only."""
    with (
        patch.object(Tensor, "pin_memory", lambda tensor: tensor),
        patch.object(Tensor, "is_pinned", lambda tensor: tensor.device.type == "cpu"),
    ):
        yield
