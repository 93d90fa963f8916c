"""A training while it runs: its settings, its weights and its history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .feed import Feed
from .task import Data, Task

RATE_OF_SCALARS = 100
"""Of the learning rate: an identity bias moves by whole units, where weights move by hundredths."""


@dataclass(frozen=True)
class TrainingSettings:
    """Defaults are the published recipe (AFA section 4.1) where it says something, else what measured best.

    patience: evaluations without improvement after which training stops; 0 never stops early
    ema:      decay of the averaged weights that are evaluated and saved; 0 uses the weights themselves
    """

    steps: int = 2000
    batch_size: int = 8
    gradient_accumulation: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_steps: int = 100
    seed: int = 0
    ema: float = 0.0
    evaluate_every: int = 100
    patience: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class TrainingState:
    """step: optimizer steps done; fingerprint: settings, data and experts that this training belongs to.

    skipped: steps that were tried again, since their gradients overflowed float16
    watched: the numbers that the task watches, as they were before the last step
    torn: a step has begun to change the weights, and is not counted yet; such a state is never saved
    """

    fingerprint: dict[str, Any]
    step: int = 0
    finished: str = ""
    losses: list[float] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    baselines: dict[str, float] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    scaler: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: int = 0
    watched: list[float] = field(default_factory=list)
    torn: bool = False

    def values(self, name: str) -> list[float]:
        """One of every evaluation; infinite where it is NaN, which would compare as neither better nor worse."""
        return [math.inf if math.isnan(row[name]) else row[name] for row in self.evaluations]

    def best_at(self, chosen_by: str) -> int:
        """Which evaluation is that of the best weights."""
        chosen = self.values(chosen_by)
        return chosen.index(min(chosen))

    def best_loss(self, chosen_by: str) -> float:
        """The held-out loss of the best weights."""
        return self.values("held_out")[self.best_at(chosen_by)]


class Training:
    """One training: what is trained, on what, and how far it has come. average: None without `ema`."""

    def __init__(self, task: Task, dataset: Data, settings: TrainingSettings, state: TrainingState):
        self.task, self.dataset, self.settings, self.state = task, dataset, settings, state
        self.feed = Feed(dataset, settings.seed, task.device)
        self.optimizer = optim.AdamW(
            _groups(task.module), settings.learning_rate, weight_decay=settings.weight_decay,
            fused=task.device.type == "cuda",
        )  # fmt: skip
        self.scaler = torch.amp.GradScaler(task.device.type, enabled=task.compute_dtype == torch.float16)
        self.average = WeightAverage(task.module, settings.ema) if settings.ema else None

    @property
    def weights(self) -> dict[str, Tensor]:
        """Those that are evaluated and exported."""
        return (self.average.module if self.average else self.task.module).state_dict()


def _groups(module: nn.Module) -> list[dict[str, Any]]:
    """The optimizer's groups: weights, and where there are any scalars, which no decay draws to 0. rate: see above."""
    weights = [parameter for parameter in module.parameters() if parameter.ndim]
    scalars = [parameter for parameter in module.parameters() if not parameter.ndim]
    groups = [{"params": weights, "rate": 1}, {"params": scalars, "rate": RATE_OF_SCALARS, "weight_decay": 0.0}]
    return groups[: 1 + bool(scalars)]


class WeightAverage(AveragedModel):
    """An exponential average of a module's weights.

    The decay is smaller in the first updates, so that the initial random weights soon count for little.
    """

    def __init__(self, module: nn.Module, decay: float):
        super().__init__(module, multi_avg_fn=self._towards)
        self.decay = decay

    def _towards(self, average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        updates = int(self.n_averaged)  # unlike `count`, this one stays on the CPU
        decay = min(self.decay, (1 + updates) / (10 + updates))
        get_ema_multi_avg_fn(decay)(list(average), list(current), count)
