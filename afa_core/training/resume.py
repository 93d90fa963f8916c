"""A training on disk: weights, optimizer, step and history, replaced as a whole or not at all.

A .safetensors file under another suffix, so that no list of models ever shows it. There is no random
state to keep: everything random is a function of seed and step.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..aggregator.file import AggregatorError
from ..atomic_file import write_safetensors
from ..untrusted import brief
from .state import Training, TrainingState

SUFFIX = ".resume"
PLAIN = (
    "fingerprint", "step", "finished", "losses", "evaluations", "baselines", "scaler", "seconds", "skipped", "watched",
)  # fmt: skip
LATER = {"skipped", "watched"}
"""What a state of an earlier version lacks."""


def save_state(training: Training, path: Path) -> None:
    """Atomic: the file is the last state or this one, never a part of it. Raises SavingError if it cannot be written."""
    state = training.state
    state.scaler = training.scaler.state_dict()
    tensors = {f"module.{key}": tensor for key, tensor in training.task.module.state_dict().items()}
    tensors |= {f"best.{key}": tensor for key, tensor in state.best.items()}
    if training.average:
        tensors |= {f"average.{key}": tensor for key, tensor in training.average.state_dict().items()}
    names = _optimized(training)
    for index, entry in training.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{names[index]}.{name}": tensor for name, tensor in entry.items()}
    metadata = {name: json.dumps(getattr(state, name)) for name in PLAIN}
    write_safetensors(tensors, metadata, path)


def load_state(training: Training, path: Path) -> None:
    """Takes over what was saved, but for the fingerprint. Raises AggregatorError where the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            # Copied out of the file: Windows lets nothing replace one that a tensor is still mapped to.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}
        saved = {name: json.loads(metadata[name]) for name in PLAIN if name in metadata or name not in LATER}
        module, average = _under(tensors, "module."), _under(tensors, "average.")
        _check_same(module, training.task.module.state_dict())
        training.task.module.load_state_dict(module)
        _restore(training, _under(tensors, "optimizer."))
        if _under(tensors, "ema."):
            raise ValueError("an earlier version of the pack averaged its weights in another way")
        if training.average:
            # A training that goes on with `ema` where it had none averages from here on.
            training.average.load_state_dict(average) if average else training.average.update_parameters(
                training.task.module
            )
        if saved["scaler"]:
            training.scaler.load_state_dict(saved["scaler"])
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise AggregatorError(
            f"{path.name} is not a training that can be continued ({brief(error)}): set resume to start anew."
        ) from error
    training.state = TrainingState(
        **{**saved, "fingerprint": training.state.fingerprint}, best=_under(tensors, "best.")
    )


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
    return [line for name in names for line in _changes(name, _value(saved.get(name)), _value(wanted.get(name)))]


def _value(text: str | None) -> Any:
    return None if text is None else ast.literal_eval(text)


def _changes(name: str, was: Any, now: Any) -> list[str]:
    """Of lists of one length, and of mappings, the parts that have changed: of an expert its file, for one."""
    if was == now:
        return []
    if isinstance(was, dict) and isinstance(now, dict):
        parts = [(f"{key} of {name}", was.get(key), now.get(key)) for key in {**was, **now}]
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        parts = [(f"{name.removesuffix('s')} {i}", *both) for i, both in enumerate(zip(was, now, strict=True), start=1)]
    else:
        return [f"{name} was {_brief(was)} and is {_brief(now)}"]
    return [line for part in parts for line in _changes(*part)]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _check_same(saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless both have the same weights."""
    for name in sorted(saved.keys() | wanted.keys()):
        was, now = (list(state[name].shape) if name in state else "absent" for state in (saved, wanted))
        if was != now:
            raise ValueError(f"its weight {name} was {was} and is {now}")


def _optimized(training: Training) -> list[str]:
    """The weights' names in the order of the optimizer, whose states are kept by name: another version may have another
    order."""
    names = {parameter: name for name, parameter in training.task.module.named_parameters()}
    return [names[parameter] for group in training.optimizer.param_groups for parameter in group["params"]]


def _restore(training: Training, tensors: dict[str, Tensor]) -> None:
    names, entries = _optimized(training), {}
    for key, tensor in tensors.items():
        weight, name = key.rsplit(".", 1)
        if weight not in names:
            raise ValueError(f"an earlier version of the pack saved the optimizer's state of {weight}")
        entries.setdefault(names.index(weight), {})[name] = tensor
    training.optimizer.load_state_dict({**training.optimizer.state_dict(), "state": entries})


def _brief(value: Any) -> str:
    return "absent" if value is None else f"{value!r:.40}"
