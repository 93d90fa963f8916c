"""A training's state on disk: weights, optimizer, step and history, written so that no crash can spoil it.

A .safetensors file under another suffix, so that no list of aggregators ever shows it. There is no random
state to keep: everything random is a function of seed and step.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn, optim

from ..aggregator.file import AggregatorError
from ..atomic_file import SavingError, write_safetensors

SUFFIX = ".resume"


@dataclass
class TrainingState:
    """step: optimizer steps done; fingerprint: settings, data and experts that this training belongs to.

    torn: a step has begun to change the weights, and is not counted yet; such a state is never saved
    """

    fingerprint: dict[str, Any]
    step: int = 0
    finished: str = ""
    losses: list[float] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    baselines: dict[str, float] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    ema: dict[str, Tensor] = field(default_factory=dict)
    scaler: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    torn: bool = False

    @property
    def held_out_losses(self) -> list[float]:
        """One of every evaluation; infinite where it is NaN, which would compare as neither better nor worse."""
        return [math.inf if math.isnan(row["held_out"]) else row["held_out"] for row in self.evaluations]

    @property
    def best_loss(self) -> float:
        return min(self.held_out_losses, default=math.inf)


PLAIN = ("fingerprint", "step", "finished", "losses", "evaluations", "baselines", "scaler", "seconds")


def save_state(state: TrainingState, module: nn.Module, optimizer: optim.Optimizer, path: Path) -> None:
    """Atomic: the file is the last state or this one, never a part of it. Raises AggregatorError if it cannot
    be written."""
    tensors = {f"module.{key}": tensor for key, tensor in module.state_dict().items()}
    tensors |= {f"best.{key}": tensor for key, tensor in state.best.items()}
    tensors |= {f"ema.{key}": tensor for key, tensor in state.ema.items()}
    packed = optimizer.state_dict()
    for index, entry in packed["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in entry.items()}
    metadata = {name: json.dumps(getattr(state, name)) for name in PLAIN}
    try:
        write_safetensors(tensors, metadata, path)
    except SavingError as error:
        raise AggregatorError(str(error)) from error


def load_state(path: Path, module: nn.Module, optimizer: optim.Optimizer, fingerprint: dict[str, Any]) -> TrainingState:
    """The saved state, put into module and optimizer. Raises AggregatorError where the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        state = TrainingState(**{name: json.loads(metadata[name]) for name in PLAIN})
        module.load_state_dict(_under(tensors, "module."))
        _restore(optimizer, _under(tensors, "optimizer."))
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise AggregatorError(
            f"{path.name} is not a training that can be continued ({str(error).splitlines()[0]:.100}): "
            "set resume to start anew."
        ) from error
    state.fingerprint = fingerprint
    state.best, state.ema = _under(tensors, "best."), _under(tensors, "ema.")
    return state


def saved_fingerprint(path: Path) -> dict[str, Any] | None:
    """What the training at `path` belongs to; None where there is none."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["fingerprint"])
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise AggregatorError(f"{path.name} is damaged: set resume to start anew.") from error


def differences(saved: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What changed between two fingerprints, in words."""
    names = sorted(set(saved) | set(wanted))
    return [
        f"{name} was {_brief(saved.get(name))} and is {_brief(wanted.get(name))}"
        for name in names
        if saved.get(name) != wanted.get(name)
    ]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _restore(optimizer: optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})


def _brief(value: Any) -> str:
    return "absent" if value is None else f"{value!s:.40}"
