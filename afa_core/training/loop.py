"""The training loop: one visible loop over steps, with everything in its state that is needed to continue after a crash."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..fusion.not_finite import NotFinite
from .state import Training, TrainingState

Result = TypeVar("Result")

OVERFLOWS = 30
"""The scale of a loss is halved at each; it begins at 2^16."""
FLAT = 1e-4
"""A held-out loss that falls by less than this fraction has not improved."""


@dataclass
class Report:
    """What a training reports after every step; `evaluation` where the held-out loss was just measured."""

    state: TrainingState
    seconds_per_step: float = 0.0
    evaluation: dict[str, Any] | None = None


class Stop(Exception):
    """Raised by a listener to end the training here and keep what was trained."""


def train(training: Training, listen: Callable[[Report], None], save: Callable[[], None]) -> None:
    """Trains in place from state.step on; state and weights are sound whenever `listen` is called.

    A resumed training goes on to the same numbers: what is random depends on seed and step alone.
    """
    state, settings = training.state, training.settings
    if not state.baselines:
        state.baselines = baselines(training)
    if len(state.watched) != len(training.task.watched):  # at first, or after a change of settings
        state.watched = [number.item() for number in training.task.watched]
    overflows = 0
    while state.step < settings.steps:
        if not state.evaluations or state.step % settings.evaluate_every == 0:
            evaluate(training, listen)
            if is_flat(state.values(training.task.chosen_by), settings.patience):
                state.finished = "the held-out loss is flat"
                return
        started = time.perf_counter()
        loss = training_step(training)
        if loss is None:
            overflows += 1
            state.skipped += 1
            check_overflows(overflows, state.step + 1)
            listen(Report(state))
            continue
        overflows = 0
        if training.average:
            training.average.update_parameters(training.task.module)
        state.step += 1
        state.losses.append(loss)
        state.torn = False
        seconds = time.perf_counter() - started
        state.seconds += seconds
        save()
        listen(Report(state, seconds))
    evaluate(training, listen)
    state.finished = "all steps are done"


def training_step(training: Training) -> float | None:
    """One optimizer step; gives its loss.

    None where the gradients overflowed float16: no weight is changed, and the same step is due again at a smaller
    scale. Values are read from the device once, after the last backward pass. Raises NotFinite before a weight is changed where
    there is nothing that could be learnt from.
    """
    settings, state = training.settings, training.state
    rate = settings.learning_rate * min(1.0, (state.step + 1) / max(1, settings.warmup_steps))
    for group in training.optimizer.param_groups:
        group["lr"] = rate * group["rate"]
    training.optimizer.zero_grad(set_to_none=True)
    batches = range(state.step * settings.gradient_accumulation, (state.step + 1) * settings.gradient_accumulation)
    shown = [micro_batch(training, index) for index in batches]
    training.scaler.unscale_(training.optimizer)
    gradients = [weight.grad for weight in training.task.module.parameters() if weight.grad is not None]
    numbers = torch.stack([*shown, total_norm(gradients), *training.task.watched]).tolist()
    losses, norm, watched = numbers[: len(shown)], numbers[len(shown)], numbers[len(shown) + 1 :]
    for index, loss in zip(batches, losses, strict=True):
        if not math.isfinite(loss):
            explain(training, index)
    if math.isfinite(norm):
        state.torn = True
        state.watched = watched
        training.optimizer.step()
    elif not training.scaler.is_enabled():
        raise NotFinite(
            f"The gradient of training step {state.step + 1} is not finite: lower learning_rate and continue."
        )
    training.scaler.update()
    return sum(losses) / len(losses) if math.isfinite(norm) else None


def total_norm(gradients: list[Tensor]) -> Tensor:
    """As torch's get_total_norm, which older torch than 2.6 lacks."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # pyright: ignore[reportPrivateImportUsage]


def micro_batch(training: Training, index: int) -> Tensor:
    """The forward and backward pass of one batch; gives its loss, still on the device."""
    batch, draw = training.feed[index]
    terms = list(training.task.loss(batch, draw, training.state.watched).values())
    total = sum(terms[1:], terms[0]) / training.settings.gradient_accumulation
    training.scaler.scale(total).backward()
    return terms[0].detach()


def explain(training: Training, index: int) -> NoReturn:
    """Raises NotFinite for a batch whose loss is not finite."""
    when = f"in training step {training.state.step + 1}"
    training.task.find_not_finite(*training.feed[index], when)
    raise NotFinite(f"The loss is not finite {when}, and every network is sound: the latents or captions hold NaN.")


def check_overflows(count: int, step: int) -> None:
    """Raises NotFinite where a step overflows however small the scale of its loss is."""
    if count >= OVERFLOWS:
        raise NotFinite(
            f"The gradients of training step {step} overflow float16 at every scale: lower learning_rate, or start "
            "ComfyUI with --bf16-unet or --fp32-unet, and continue."
        )


@torch.no_grad()
def baselines(training: Training) -> dict[str, float]:
    """Held-out losses of what needs no training, on the very draws that the task is measured on.

    Raises NotFinite where an expert cannot do a held-out picture.
    """
    rows: dict[str, list[Tensor]] = {}
    for batch in training.dataset.held_out_batches(training.settings.batch_size):
        for name, losses in training.task.baselines(batch.to(training.task.device)).items():
            rows.setdefault(name, []).append(losses)
    return {name: torch.cat(losses).mean().item() for name, losses in rows.items()}


def evaluate(training: Training, listen: Callable[[Report], None]) -> None:
    """Adds a row of the held-out loss to the state, if this step has none; keeps the best weights."""
    task, state, weights = training.task, training.state, training.weights
    if any(row["step"] == state.step for row in state.evaluations):
        return
    found: dict[str, list[Tensor]] = {}

    def measure() -> None:
        for batch in training.dataset.held_out_batches(training.settings.batch_size):
            for name, value in task.evaluate(batch.to(task.device)).items():
                found.setdefault(name, []).append(value)

    with_weights(task.module, weights, measure)
    row = {"step": state.step, **{name: _mean(values).tolist() for name, values in found.items()}}
    if row[task.chosen_by] < min(state.values(task.chosen_by), default=math.inf):
        state.best = {key: tensor.detach().cpu().clone() for key, tensor in weights.items()}
    state.evaluations.append(row)
    listen(Report(state, evaluation=row))


def _mean(values: list[Tensor]) -> Tensor:
    """Over all items where there is one value an item, else over the batches."""
    return torch.cat(values).mean() if values[0].ndim == 1 else torch.stack(values).mean(0)


def is_flat(losses: list[float], patience: int) -> bool:
    """Whether the last `patience` held-out losses brought no improvement over what was there before."""
    if not patience or len(losses) <= patience:
        return False
    return min(losses[-patience:]) > min(losses[:-patience]) * (1 - FLAT)


class _Borrowing(nn.Module):
    """Runs any work as its forward pass, in which functional_call replaces the weights of `module`."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


@torch.no_grad()
def with_weights(module: nn.Module, weights: Mapping[str, Tensor], work: Callable[[], Result]) -> Result:
    """What `work` gives while the module has these weights."""
    other = copy.deepcopy(module)
    other.load_state_dict(weights)
    borrowed: dict[str, Tensor] = {f"module.{name}": parameter for name, parameter in other.named_parameters()}
    return functional_call(_Borrowing(module), borrowed, (work,))
