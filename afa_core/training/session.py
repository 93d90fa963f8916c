"""One training from its settings to its files: what to continue, what to refuse, and what is never lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import optim

from ..aggregator.config import AggregatorConfig
from ..aggregator.file import AggregatorError, AggregatorFile, save_aggregator
from ..aggregator.sabw import Aggregator
from ..fusion.points import FusionPoint
from ..fusion.sabw_fusion import SABWFusion
from .data.dataset import LatentDataset
from .loop import Report, Stop, TrainingSettings, new_aggregator, train, using
from .objective import TIMESTEPS, FrozenExperts, held_out_draw, sample_loss
from .state import SUFFIX, TrainingState, differences, load_state, save_state, saved_fingerprint

RESUME = ("continue", "continue with changes", "start anew")
NOISE_LEVELS = 5
LAST = "-last"


class TrainingError(ValueError):
    """A training that cannot begin, in one sentence that says what to do."""


def fit(
    experts: FrozenExperts,
    dataset: LatentDataset,
    config: AggregatorConfig,
    settings: TrainingSettings,
    identity: dict[str, Any],
    path: Path,
    resume: str,
    save_every: int,
    tell: Callable[[Report, Aggregator], None],
) -> tuple[AggregatorFile, TrainingState]:
    """Trains an aggregator and writes it to `path`: the best one there, the last one beside it.

    identity: {"experts": [{"file", "sha256", "prediction"}], "data": digest}, which the file will carry.
    `tell` hears of every step; it may raise Stop to end well here. Any other exception, an interruption
    or an error, passes through after the work has been saved; one in the middle of changing the weights
    leaves what was saved last.
    Raises TrainingError where an earlier training of this name is of other data, experts or settings.
    """
    wanted = {**settings.to_json(), **config.to_json(), **identity}
    wanted = {name: repr(value) for name, value in wanted.items() if name != "steps"}
    state_path = path.with_suffix(SUFFIX)
    aggregator = new_aggregator(config, settings.seed, experts.device)
    optimizer = optim.AdamW(aggregator.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    state = _state(aggregator, optimizer, state_path, wanted, resume)
    saved_at = state.step

    def keep() -> AggregatorFile:
        nonlocal saved_at
        saved_at = state.step
        save_state(state, aggregator, optimizer, state_path)
        current = {key: tensor.detach() for key, tensor in (state.ema or aggregator.state_dict()).items()}
        last = _file(path, config, current, identity, settings, state)
        best = _file(path, config, state.best or current, identity, settings, state)
        save_aggregator(last, path.with_stem(path.stem + LAST))
        save_aggregator(best, path)
        return best

    def save() -> None:
        if state.step - saved_at >= save_every:
            keep()

    try:
        if not state.finished or state.step < settings.steps:
            state.finished = ""
            train(aggregator, optimizer, experts, dataset, settings, state, lambda r: tell(r, aggregator), save)
    except Stop:
        state.finished = "stopped"
    except BaseException:
        try:
            if not state.torn:
                keep()
        except AggregatorError as lost:  # the first error is the one to show
            logging.error("%s", lost)
        raise
    best = keep()
    best.routing = routing_table(aggregator, best, experts, dataset, settings)
    save_aggregator(best, path)
    return best, state


@torch.no_grad()
def routing_table(
    aggregator: Aggregator,
    file: AggregatorFile,
    experts: FrozenExperts,
    dataset: LatentDataset,
    settings: TrainingSettings,
) -> dict[str, Any]:
    """Mean share of every expert at every fusion point and noise level, on the held-out items.

    {"points": names, "timesteps": middles, "shares": [levels][points][N]}; level 0 is the least noise.
    """
    points = [experts.points[i] for i in file.config.fused_points]
    sums = torch.zeros(NOISE_LEVELS, len(points), file.config.num_experts)
    counts = torch.zeros(NOISE_LEVELS)
    with using(aggregator, file.state):
        for batch in dataset.held_out_batches(settings.batch_size):
            draw = held_out_draw(batch, look=1)
            shares: list[torch.Tensor] = []

            def observe(point: FusionPoint, share: torch.Tensor, shares=shares) -> None:
                shares.append(share.mean((2, 3)).float().cpu())

            sample_loss(experts, SABWFusion(aggregator), batch.to(experts.device), draw, observe)
            levels = draw.timesteps * NOISE_LEVELS // TIMESTEPS
            sums.index_add_(0, levels, torch.stack(shares, dim=1))
            counts.index_add_(0, levels, torch.ones(len(levels)))
    return {
        "points": [point.name for point in points],
        "timesteps": [(level + 0.5) * TIMESTEPS / NOISE_LEVELS for level in range(NOISE_LEVELS)],
        "shares": (sums / counts.clamp_min(1)[:, None, None]).tolist(),
    }


def _state(
    aggregator: Aggregator, optimizer: optim.Optimizer, path: Path, wanted: dict[str, Any], resume: str
) -> TrainingState:
    if resume not in RESUME:
        raise TrainingError(f"resume should be one of {', '.join(RESUME)}, found {resume!r:.40}.")
    saved = None if resume == "start anew" else saved_fingerprint(path)
    if saved is None:
        return TrainingState(wanted)
    changes = differences(saved, wanted)
    if changes and resume == "continue":
        raise TrainingError(
            f"{path.stem} was begun with other settings: {'; '.join(changes)}. Choose another name, or set resume to "
            '"continue with changes" or "start anew".'
        )
    return load_state(path, aggregator, optimizer, wanted)


def _file(
    path: Path,
    config: AggregatorConfig,
    weights: dict[str, torch.Tensor],
    identity: dict[str, Any],
    settings: TrainingSettings,
    state: TrainingState,
) -> AggregatorFile:
    """Weights are stored in float16: half the size, and the held-out loss is the same to five digits."""
    training = {
        **settings.to_json(),
        "data": identity["data"],
        "objective": "mean squared error of the prediction",
        "steps": state.step,
        "finished": state.finished,
        "baselines": state.baselines,
        "held_out": [[row["step"], row["held_out"]] for row in state.evaluations],
        "losses": state.losses[:: max(1, len(state.losses) // 500)],
        "seconds": round(state.seconds, 1),
    }
    half = {key: tensor.detach().cpu().half() for key, tensor in weights.items()}
    return AggregatorFile(path.name, config, half, identity["experts"], training)
