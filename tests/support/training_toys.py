"""Experts and data small enough to train on in a second, without a host: three blocks of one convolution each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from afa_core.aggregator.config import AggregatorConfig
from afa_core.fusion.fusion import Embeddings, FusionState
from afa_core.fusion.lockstep import lockstep
from afa_core.fusion.points import FusionPoint
from afa_core.training import loop
from afa_core.training.data.dataset import BatchPlan, DatasetItem, LatentDataset

POINTS = [FusionPoint(0, "input 0", 8, 1), FusionPoint(1, "middle", 8, 1), FusionPoint(2, "prediction", 4, 1)]
TEXT_WIDTH, TIME_WIDTH = 16, 8
CONFIG = AggregatorConfig("toy", (8, 8, 4), 2, TEXT_WIDTH, TIME_WIDTH, hidden_size=64, num_layers=1, num_heads=4)


class ToyExpert(torch.nn.Module):
    """A larger gain predicts worse, so that there is something to learn within a few steps."""

    def __init__(self, seed: int, gain: float):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        shapes = ((8, 4), (8, 8), (4, 8))
        self.weights = torch.nn.ParameterList(torch.randn(o, i, 3, 3, generator=random) * gain for o, i in shapes)
        self.requires_grad_(False)

    def stream(self, x: Tensor):
        for weight in self.weights[:-1]:
            x = yield torch.tanh(torch.nn.functional.conv2d(x, weight, padding=1))
        yield torch.nn.functional.conv2d(x, self.weights[-1], padding=1)


class ToyExperts:
    points = POINTS
    labels = ["model_1", "model_2"]
    device = torch.device("cpu")
    compute_dtype = torch.float32
    checkpointing = False

    def __init__(self):
        self.experts = [ToyExpert(1, 0.05), ToyExpert(2, 0.6)]

    def sigma(self, levels: Tensor) -> Tensor:
        return 0.02 + levels * 10

    def snr(self, sigma: Tensor) -> Tensor:
        return sigma.square().reciprocal()

    def slope(self, sigma: Tensor) -> Tensor:
        return -sigma[:, None, None, None]

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return latents + noise * sigma[:, None, None, None]

    def target(self, latents: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        return (noisy - latents) / sigma[:, None, None, None]

    def predict(self, fusion, noisy: Tensor, sigma: Tensor, texts: list[dict], observe=None) -> Tensor:
        x = noisy / (sigma.square() + 1).sqrt()[:, None, None, None]
        time = sigma[:, None].log().expand(-1, TIME_WIDTH)
        state = FusionState([Embeddings(time, text["c_crossattn"]) for text in texts], observe)
        return lockstep([expert.stream(x) for expert in self.experts], self.points, fusion, state)


class ToyStore:
    def latent(self, item: int, variant: int) -> Tensor:
        return torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(item)) * 0.3 + (item % 2)

    def text(self, expert: int, item: int, empty: bool) -> dict[str, Tensor]:
        seed = 0 if empty else 1000 + item
        return {"c_crossattn": torch.randn(1, 5, TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))}


def toy_dataset(items: int = 20, seed: int = 0) -> LatentDataset:
    listed = [
        DatasetItem(f"key {i}", f"{i}.png", f"caption {i}", "even" if i % 2 else "odd", 1, (8, 8), 5, held_out=i < 4)
        for i in range(items)
    ]
    return LatentDataset(listed, ToyStore(), experts=2, plan=BatchPlan(seed=seed, batch_size=2), source="toy")


def same_weights(one, other) -> bool:
    """Whether two state dicts are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@contextmanager
def computed_steps() -> Iterator[list[int]]:
    """The training steps that are computed meanwhile: a training that goes on ends as one begun anew, in fewer of them."""
    steps: list[int] = []

    def step(training, real=loop.training_step):
        steps.append(training.state.step)
        return real(training)

    with patch.object(loop, "training_step", step):
        yield steps
