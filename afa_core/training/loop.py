"""The training loop: one visible loop over steps, with everything that must survive a crash in its state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim

from ..aggregator.sabw import Aggregator
from ..fusion.averages import StaticFusion
from ..fusion.fusion import Fusion
from ..fusion.not_finite import NotFinite, finding_the_culprit
from ..fusion.sabw_fusion import SABWFusion
from .data.dataset import Batch, LatentDataset
from .fusions import CheckpointedFusion, ExpertDropout
from .objective import (
    Balance,
    Draw,
    FrozenExperts,
    baseline_losses,
    generator,
    held_out_draw,
    sample_loss,
    training_draw,
)
from .state import TrainingState

FLAT = 1e-4
"""A held-out loss that falls by less than this fraction has not improved."""


@dataclass(frozen=True)
class TrainingSettings:
    """Defaults are the published recipe (AFA section 4.1) where it says something, else what measured best.

    patience: evaluations without improvement after which training stops; 0 never stops early
    ema:      decay of the averaged weights that are evaluated and saved; 0 uses the weights themselves
    expert_dropout: probability of losing an expert at a fusion point
    """

    steps: int = 2000
    batch_size: int = 8
    gradient_accumulation: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_steps: int = 100
    seed: int = 0
    ema: float = 0.0
    min_snr_gamma: float = 0.0
    load_balance: float = 0.0
    expert_dropout: float = 0.0
    evaluate_every: int = 100
    patience: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Report:
    """What a training tells after every step; `evaluation` where the held-out loss was just measured."""

    state: TrainingState
    settings: TrainingSettings
    seconds_per_step: float
    shares: list[float]
    evaluation: dict[str, Any] | None = None


class Stop(Exception):
    """Raised by a listener to end the training here and keep what it has learnt."""


def train(
    aggregator: Aggregator,
    optimizer: optim.Optimizer,
    experts: FrozenExperts,
    dataset: LatentDataset,
    settings: TrainingSettings,
    state: TrainingState,
    tell: Callable[[Report], None],
    save: Callable[[], None],
) -> None:
    """Trains in place from state.step on; `state` and `aggregator` are sound whenever `tell` is called.

    A resumed training goes on to the same numbers: what is random depends on seed and step alone.
    """
    scaler = torch.amp.GradScaler(enabled=experts.compute_dtype == torch.float16)
    if scaler.is_enabled() and state.scaler:
        scaler.load_state_dict(state.scaler)
    if not state.baselines:
        state.baselines = baselines(experts, dataset, settings)
    while state.step < settings.steps:
        if state.step % settings.evaluate_every == 0:
            if evaluation_at(state) is None:
                evaluate(aggregator, experts, dataset, settings, state)
                tell(Report(state, settings, 0.0, [], state.evaluations[-1]))
            if is_flat(state.held_out_losses, settings.patience):
                state.finished = "the held-out loss is flat"
                return
        started = time.perf_counter()
        loss, shares = training_step(aggregator, optimizer, scaler, experts, dataset, settings, state)
        update_ema(state, aggregator, settings.ema)
        state.step += 1
        state.losses.append(loss)
        state.scaler = scaler.state_dict()
        state.torn = False
        seconds = time.perf_counter() - started
        state.seconds += seconds
        save()
        tell(Report(state, settings, seconds, shares))
    if evaluation_at(state) is None:
        evaluate(aggregator, experts, dataset, settings, state)
        tell(Report(state, settings, 0.0, [], state.evaluations[-1]))
    state.finished = "all steps are done"


def training_step(
    aggregator: Aggregator,
    optimizer: optim.Optimizer,
    scaler: torch.amp.GradScaler,
    experts: FrozenExperts,
    dataset: LatentDataset,
    settings: TrainingSettings,
    state: TrainingState,
) -> tuple[float, list[float]]:
    """One optimizer step; gives its loss and the experts' mean shares [N].

    Raises NotFinite before a weight is changed where there is nothing that could be learnt from.
    """
    step = state.step
    rate = settings.learning_rate * min(1.0, (step + 1) / max(1, settings.warmup_steps))
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    total, shares = 0.0, []
    for part in range(settings.gradient_accumulation):
        index = step * settings.gradient_accumulation + part
        batch = dataset.train_batch(index).to(experts.device)
        draw = training_draw(batch.latents.shape, settings.seed, index)
        balance = Balance()
        fusion = SABWFusion(aggregator)
        if experts.checkpointing:
            fusion = CheckpointedFusion(fusion)
        if settings.expert_dropout:
            fusion = ExpertDropout(fusion, settings.expert_dropout, generator(settings.seed, index, 1))
        loss = sample_loss(experts, fusion, batch, draw, balance.observe, settings.min_snr_gamma).mean()
        total += loss.item() / settings.gradient_accumulation
        if not math.isfinite(total):
            find_culprit(experts, fusion, batch, draw, f"in training step {step + 1}")
        if settings.load_balance:
            loss = loss + settings.load_balance * balance.imbalance()
        scaler.scale(loss / settings.gradient_accumulation).backward()
        shares.append(torch.stack([s.detach() for s in balance.shares.values()]).mean(0))
    # The scaler looks by itself, and leaves out a step whose gradients overflow.
    if not scaler.is_enabled() and not gradients_are_finite(aggregator):
        raise NotFinite(f"The gradient of training step {step + 1} is not finite: lower learning_rate and continue.")
    state.torn = True
    scaler.step(optimizer)
    scaler.update()
    return total, torch.stack(shares).mean(0).tolist()


def find_culprit(experts: FrozenExperts, fusion: Fusion, batch: Batch, draw: Draw, when: str) -> None:
    """Looks at a batch again whose loss is not finite. Raises NotFinite, which names the expert and the block."""
    with torch.no_grad():
        sample_loss(experts, finding_the_culprit(fusion, experts.labels, when), batch, draw)
    raise NotFinite(f"The loss is not finite {when}, and every network is sound: the latents or captions hold NaN.")


def gradients_are_finite(aggregator: Aggregator) -> bool:
    sums = [parameter.grad.sum() for parameter in aggregator.parameters() if parameter.grad is not None]
    return bool(torch.stack(sums).isfinite().all())


def baselines(experts: FrozenExperts, dataset: LatentDataset, settings: TrainingSettings) -> dict[str, float]:
    """Held-out losses without an aggregator, on the very draws that the aggregator is measured on.

    Raises NotFinite where an expert cannot do a held-out picture.
    """
    rows: dict[str, list[Tensor]] = {}
    apart = StaticFusion("noise average").bind(experts.points, len(experts.labels))
    for batch in dataset.held_out_batches(settings.batch_size):
        batch, draw = batch.to(experts.device), held_out_draw(batch)
        for name, losses in baseline_losses(experts, batch, draw).items():
            if not losses.isfinite().all():
                find_culprit(experts, apart, batch, draw, "on a held-out picture")
            rows.setdefault(name, []).append(losses)
    return {name: torch.cat(losses).mean().item() for name, losses in rows.items()}


@torch.no_grad()
def evaluate(
    aggregator: Aggregator,
    experts: FrozenExperts,
    dataset: LatentDataset,
    settings: TrainingSettings,
    state: TrainingState,
) -> None:
    """Adds the held-out loss, and every point's shares and their entropy, to the state; keeps the best weights."""
    weights = state.ema or aggregator.state_dict()
    with using(aggregator, weights):
        losses, balances = [], []
        for batch in dataset.held_out_batches(settings.batch_size):
            balance = Balance()
            fusion = SABWFusion(aggregator)
            losses.append(sample_loss(experts, fusion, batch.to(experts.device), held_out_draw(batch), balance.observe))
            balances.append(torch.stack(list(balance.shares.values())))
    shares = torch.stack(balances).mean(0).cpu()
    row = {
        "step": state.step,
        "held_out": torch.cat(losses).mean().item(),
        "shares": shares.tolist(),
        "entropy": (-(shares * shares.clamp_min(1e-12).log()).sum(1)).tolist(),
    }
    if row["held_out"] < state.best_loss:
        state.best = {key: tensor.detach().cpu().clone() for key, tensor in weights.items()}
    state.evaluations.append(row)


def evaluation_at(state: TrainingState) -> dict[str, Any] | None:
    return next((row for row in state.evaluations if row["step"] == state.step), None)


def is_flat(losses: list[float], patience: int) -> bool:
    """Whether the last `patience` held-out losses brought no improvement over what was there before."""
    if not patience or len(losses) <= patience:
        return False
    return min(losses[-patience:]) > min(losses[:-patience]) * (1 - FLAT)


def update_ema(state: TrainingState, aggregator: Aggregator, decay: float) -> None:
    if not decay:
        return
    current = aggregator.state_dict()
    if not state.ema:
        state.ema = {key: tensor.clone() for key, tensor in current.items()}
    # Young averages forget faster, so that the first random weights do not linger.
    decay = min(decay, (1 + state.step) / (10 + state.step))
    for key, tensor in state.ema.items():
        tensor.lerp_(current[key].to(tensor), 1 - decay)


class using:
    """Runs a module with other weights for a while."""

    def __init__(self, module: nn.Module, weights: dict[str, Tensor]):
        self.module, self.weights = module, weights

    def __enter__(self) -> None:
        self.own = {key: tensor.clone() for key, tensor in self.module.state_dict().items()}
        self.module.load_state_dict(self.weights)

    def __exit__(self, *exception: object) -> None:
        self.module.load_state_dict(self.own)


def new_aggregator(config, seed: int, device: torch.device) -> Aggregator:
    """A trainable aggregator in float32, alike for a seed on every machine."""
    return Aggregator(config).initialise(generator(seed)).to(device)
