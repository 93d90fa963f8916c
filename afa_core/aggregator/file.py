"""Reads and writes aggregators: one .safetensors of ours, or a folder in the authors' layout.

A file may come from anyone. Its header is checked against what its configuration implies before a single
tensor is read, so that nothing it claims can cost memory or time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..atomic_file import SavingError, write_safetensors
from ..untrusted import brief, check_header, parsed, printable, short_text
from .config import AggregatorConfig, ConfigError, sabw_shapes

FORMAT, VERSION = "afa", "1"
DTYPES = ("F16", "BF16", "F32", "F64")
MOST_LORAS, STRONGEST = 64, 1000.0
LONGEST_SKETCH = 2**16
AGAIN = "download it again, or ask its author for a sound one"


class AggregatorError(ValueError):
    """What is wrong with an aggregator, in one sentence that names the file."""


@dataclass
class AggregatorFile:
    """An aggregator as its file holds it.

    state:    tensors `aggregators.{i}.{key}`
    experts:  for each expert, in the order of the sockets; empty where unknown. {"file", "sha256", "prediction"}, and
              in newer files "sketch" of its weights in text, "patches" a digest of its LoRAs and other patches (empty
              without any), "loras" [{"file", "strength", "strength_clip"}] as far as they are known
    training: how it was trained; empty where the file does not say
    routing:  mean shares that training measured; empty where the file does not say
    top_k:    how many experts are followed at a position; 0 for all. The user's choice, not the file's
    """

    name: str
    config: AggregatorConfig
    state: dict[str, Tensor]
    experts: list[dict[str, Any]] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    routing: dict[str, Any] = field(default_factory=dict)
    top_k: int = 0


def load_aggregator(path: Path) -> AggregatorFile:
    """Raises AggregatorError for anything that is not a sound aggregator."""
    try:
        return _load_folder(path) if path.is_dir() else _load_file(path)
    except AggregatorError:
        raise
    except ValueError as error:
        raise AggregatorError(f"{path.name} is not a sound aggregator: {brief(error)}; {AGAIN}.") from error
    except RecursionError as error:
        raise AggregatorError(f"{path.name} is not a sound aggregator: it is nested too deeply; {AGAIN}.") from error
    except OSError as error:
        raise AggregatorError(
            f"{path.name} cannot be read ({error.strerror or brief(error)}): check the file and its permissions."
        ) from error


def save_aggregator(aggregator: AggregatorFile, path: Path) -> None:
    """Writes the file whole or not at all.

    Raises AggregatorError where it would not load again, or cannot be written; a file that lay there stays.
    """
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": json.dumps(aggregator.config.to_json()),
        "experts": json.dumps(aggregator.experts),
        "training": json.dumps(aggregator.training),
        "routing": json.dumps(aggregator.routing),
    }
    shapes = {key: tuple(tensor.shape) for key, tensor in aggregator.state.items()}
    _check_shapes(path, shapes, dict(aggregator.config.shapes()))
    _check_numbers(path, aggregator.state)
    try:
        write_safetensors(aggregator.state, metadata, path)
    except SavingError as error:
        raise AggregatorError(str(error)) from error


def _load_file(path: Path) -> AggregatorFile:
    with _opened(path) as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise AggregatorError(
                f"{path.name} is not an AFA aggregator: its header should say format {FORMAT!r}, found "
                f"{metadata.get('format')!r:.40}; choose a file that Train AFA Aggregator has saved."
            )
        if metadata.get("version") != VERSION:
            raise AggregatorError(
                f"{path.name} is an AFA aggregator of version {metadata.get('version')!r:.20}, and this pack "
                f"reads version {VERSION!r}: update the pack."
            )
        config = AggregatorConfig.from_json(parsed("config", metadata.get("config", "null")))
        experts = _experts(path, parsed("experts", metadata.get("experts", "[]")), config.num_experts)
        training, routing = (_object(name, metadata.get(name, "{}")) for name in ("training", "routing"))
        state = _tensors(path, file, dict(config.shapes()))
    _check_numbers(path, state)
    return AggregatorFile(path.name, config, state, experts, training, routing)


def _load_folder(path: Path) -> AggregatorFile:
    """The authors' layout: model_config.json, aggregator_{i}/config.json and aggregator.safetensors."""
    top = _object("model_config.json", _text(path, "model_config.json"))
    count = top.get("num_aggregators")
    if type(count) is not int or not 2 <= count <= 256:
        raise ConfigError(f"num_aggregators should be a whole number from 2 to 256, found {count!r:.40}")
    names = [f"aggregator_{i}/config.json" for i in range(count)]
    config = _folder_config(path, [_object(name, _text(path, name)) for name in names])
    if top.get("num_models") != config.num_experts:
        raise AggregatorError(
            f"{path.name} contradicts itself: model_config.json says {top.get('num_models')!r:.20} models and "
            f"aggregator_0 says {config.num_experts}; {AGAIN}."
        )
    state = {}
    for i, channels in enumerate(config.channels):
        part = f"aggregator_{i}/aggregator.safetensors"
        with _opened(path, part) as file:
            tensors = _tensors(path, file, dict(sabw_shapes(config, channels)), f"aggregator_{i}: ")
            state.update({f"aggregators.{i}.{key}": tensor for key, tensor in tensors.items()})
    _check_numbers(path, state)
    return AggregatorFile(path.name, config, state)


def _folder_config(path: Path, parts: list[dict[str, Any]]) -> AggregatorConfig:
    shared = {
        "num_experts": "num_experts",
        "hidden_size": "hidden_size",
        "num_layers": "num_layers",
        "num_heads": "num_attn_heads",
        "text_width": "cross_attn_dim",
        "time_width": "temb_channels",
    }
    for i, part in enumerate(parts):
        for key in shared.values():
            if part.get(key) != parts[0].get(key):
                raise AggregatorError(
                    f"{path.name} contradicts itself: {key} is {parts[0].get(key)!r:.20} in aggregator_0 and "
                    f"{part.get(key)!r:.20} in aggregator_{i}; {AGAIN}."
                )
    # What is missing or of another kind is refused by name.
    numbers: dict[str, Any] = {ours: parts[0].get(theirs) for ours, theirs in shared.items()}
    channels: Any = tuple(part.get("in_channels") for part in parts)
    return AggregatorConfig(architecture="", channels=channels, **numbers)


@contextmanager
def _opened(path: Path, part: str = "") -> Iterator[Any]:
    """The .safetensors file, or one of a folder's, with its header read."""
    file = path / part if part else path
    where = f" ({part})" if part else ""
    _check_there(path, part)
    try:
        check_header(file)
        with safe_open(file, "pt") as opened:
            yield opened
    except SafetensorError as error:
        raise AggregatorError(
            f"{path.name}{where} cannot be read as .safetensors ({brief(error)}): it may be truncated, still "
            f"downloading, or of another kind; {AGAIN}."
        ) from error


def _text(path: Path, part: str) -> str:
    _check_there(path, part)
    return short_text(path / part, part)


def _check_there(path: Path, part: str) -> None:
    if not (path / part if part else path).is_file():
        what = f"is incomplete: {part} is missing in it" if part else "is no longer there"
        raise AggregatorError(f"{path.name} {what}; {AGAIN}, and refresh the node's list.")


def _tensors(path: Path, file: Any, expected: dict[str, tuple], where: str = "") -> dict[str, Tensor]:
    """The tensors, once their names, shapes and dtypes are found to be what they should.

    Copied out of the file, which could otherwise not be trained again under its name on Windows, and whose
    truncation by another program would end the host.
    """
    slices = {key: file.get_slice(key) for key in file.keys()}
    _check_shapes(path, {key: tuple(part.get_shape()) for key, part in slices.items()}, expected, where)
    for key, part in slices.items():
        if part.get_dtype() not in DTYPES:
            raise AggregatorError(
                f"{path.name} holds numbers of the wrong kind: {where}{key} should be one of {', '.join(DTYPES)}, "
                f"found {part.get_dtype()}; {AGAIN}."
            )
    return {key: file.get_tensor(key).clone() for key in expected}


def _check_shapes(path: Path, found: dict[str, tuple], expected: dict[str, tuple], where: str = "") -> None:
    for key in (*expected, *found):
        if found.get(key) != expected.get(key):
            raise AggregatorError(
                f"{path.name} does not hold what its configuration says: {where}{printable(key, 100)} should be "
                f"{_shape(expected.get(key))}, found {_shape(found.get(key))}; {AGAIN}."
            )


def _check_numbers(path: Path, state: dict[str, Tensor]) -> None:
    for key, tensor in state.items():
        if not torch.isfinite(tensor.float()).all():
            raise AggregatorError(
                f"{path.name} is damaged: {key} holds NaN or infinite numbers; train it again or load a backup."
            )


def _experts(path: Path, experts: Any, count: int) -> list[dict[str, Any]]:
    sound = isinstance(experts, list) and all(isinstance(expert, dict) and _is_expert(expert) for expert in experts)
    if not sound or len(experts) not in (0, count):
        raise AggregatorError(
            f"{path.name} is not a sound aggregator: its header should name {count} experts, or none; {AGAIN}."
        )
    return [{key: _shown(key, value) for key, value in expert.items()} for expert in experts]


def _is_expert(expert: dict[str, Any]) -> bool:
    loras = expert.get("loras", [])
    return all(isinstance(value, str) for key, value in expert.items() if key != "loras") and (
        isinstance(loras, list) and len(loras) <= MOST_LORAS and all(map(_is_lora, loras))
    )


def _is_lora(lora: Any) -> bool:
    if not isinstance(lora, dict) or lora.keys() != {"file", "strength", "strength_clip"}:
        return False
    strengths = lora["strength"], lora["strength_clip"]
    return isinstance(lora["file"], str) and all(type(s) in (int, float) and abs(s) <= STRONGEST for s in strengths)


def _shown(key: str, value: Any) -> Any:
    if key == "loras":
        return [{**lora, "file": printable(lora["file"], 255)} for lora in value]
    return printable(value, LONGEST_SKETCH if key == "sketch" else 255)


def _object(name: str, text: str) -> dict[str, Any]:
    value = parsed(name, text)
    if not isinstance(value, dict):
        raise ConfigError(f"{name} should hold an object, found {type(value).__name__}")
    return value


def _shape(shape: tuple | None) -> str:
    return "absent" if shape is None else f"of shape {list(shape)}"[:120]
