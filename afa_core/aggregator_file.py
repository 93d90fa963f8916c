"""Reads and writes aggregators: one .safetensors of ours, or a folder in the authors' layout.

A file may come from anyone. Its header is checked against what its configuration implies before a single
tensor is read, so that nothing it claims can cost memory or time.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .aggregator_config import AggregatorConfig, ConfigError, sabw_shapes

FORMAT, VERSION = "afa", "1"


class AggregatorError(ValueError):
    """What is wrong with an aggregator, in one sentence that names the file."""


@dataclass
class AggregatorFile:
    """An aggregator at rest.

    state:    tensors `aggregators.{i}.{key}`
    experts:  for each expert {"file", "sha256", "prediction"}, in the order of the sockets
    training: how it was trained; empty where the file does not say
    routing:  mean shares that training measured; empty where the file does not say
    """

    name: str
    config: AggregatorConfig
    state: dict[str, Tensor]
    experts: list[dict[str, str]] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    routing: dict[str, Any] = field(default_factory=dict)


def load_aggregator(path: Path) -> AggregatorFile:
    """Raises AggregatorError for anything that is not a sound aggregator."""
    try:
        return _load_folder(path) if path.is_dir() else _load_file(path)
    except ConfigError as error:
        raise AggregatorError(f"{path.name} is not a sound aggregator: {error}.") from error
    except FileNotFoundError as error:
        missing = Path(error.filename or path).name
        raise AggregatorError(f"{path.name} is incomplete: {missing} is missing.") from error
    except (SafetensorError, OSError) as error:
        raise AggregatorError(
            f"{path.name} cannot be read as .safetensors ({_brief(error)}): it may be truncated, still "
            "downloading, or of another kind."
        ) from error


def save_aggregator(aggregator: AggregatorFile, path: Path) -> None:
    """Writes the file beside its place and moves it there, so that a half-written one is never seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": json.dumps(aggregator.config.to_json()),
        "experts": json.dumps(aggregator.experts),
        "training": json.dumps(aggregator.training),
        "routing": json.dumps(aggregator.routing),
    }
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in aggregator.state.items()}
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    os.close(handle)
    try:
        save_file(state, draft, metadata)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def _load_file(path: Path) -> AggregatorFile:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise AggregatorError(
                f"{path.name} is not an AFA aggregator: its header should say format {FORMAT!r}, "
                f"found {metadata.get('format')!r:.40}."
            )
        if metadata.get("version") != VERSION:
            raise AggregatorError(
                f"{path.name} is an AFA aggregator of version {metadata.get('version')!r:.20}, and this pack "
                f"reads version {VERSION}: update the pack."
            )
        config = AggregatorConfig.from_json(_json(path, "config", metadata.get("config", "null")))
        expected = dict(config.shapes())
        _check_shapes(path, {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}, expected)
        state = {key: file.get_tensor(key) for key in expected}
    _check_numbers(path, state)
    return AggregatorFile(
        path.name,
        config,
        state,
        _experts(path, _json(path, "experts", metadata.get("experts", "[]")), config.num_experts),
        _object(path, "training", metadata),
        _object(path, "routing", metadata),
    )


def _load_folder(path: Path) -> AggregatorFile:
    """The authors' layout: model_config.json, aggregator_{i}/config.json and aggregator.safetensors."""
    top = _object_of(path, "model_config.json", (path / "model_config.json").read_text())
    count = top.get("num_aggregators")
    if type(count) is not int or not 2 <= count <= 256:
        raise AggregatorError(f"{path.name} is not a sound aggregator: num_aggregators is {count!r:.40}.")
    parts = [
        _object_of(path, f"aggregator_{i}/config.json", (path / f"aggregator_{i}" / "config.json").read_text())
        for i in range(count)
    ]
    config = _folder_config(path, parts)
    if top.get("num_models") != config.num_experts:
        raise AggregatorError(
            f"{path.name} contradicts itself: model_config.json says {top.get('num_models')!r:.20} models, "
            f"aggregator_0 says {config.num_experts}."
        )
    state = {}
    for i in range(count):
        with safe_open(path / f"aggregator_{i}" / "aggregator.safetensors", "pt") as file:
            expected = dict(sabw_shapes(config, config.channels[i]))
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
            _check_shapes(path, found, expected, f"aggregator_{i}: ")
            state.update({f"aggregators.{i}.{key}": file.get_tensor(key) for key in expected})
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
                    f"{part.get(key)!r:.20} in aggregator_{i}."
                )
    return AggregatorConfig(
        architecture="",
        channels=tuple(part.get("in_channels") for part in parts),
        **{ours: parts[0].get(theirs) for ours, theirs in shared.items()},
    )


def _check_shapes(path: Path, found: dict[str, tuple], expected: dict[str, tuple], where: str = "") -> None:
    for key in (*expected, *found):
        if found.get(key) != expected.get(key):
            raise AggregatorError(
                f"{path.name} does not hold what its configuration says: {where}{key:.100} should be "
                f"{_shape(expected.get(key))}, found {_shape(found.get(key))}."
            )


def _check_numbers(path: Path, state: dict[str, Tensor]) -> None:
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            raise AggregatorError(
                f"{path.name} holds numbers of the wrong kind: {key} should be floating point, found {tensor.dtype}."
            )
        if not torch.isfinite(tensor.float()).all():
            raise AggregatorError(
                f"{path.name} is damaged: {key} holds NaN or infinite numbers; train it again or load a backup."
            )


def _experts(path: Path, experts: Any, count: int) -> list[dict[str, str]]:
    sound = isinstance(experts, list) and all(
        isinstance(expert, dict) and all(isinstance(v, str) for v in expert.values()) for expert in experts
    )
    if not sound or len(experts) not in (0, count):
        raise AggregatorError(
            f"{path.name} is not a sound aggregator: its header should name {count} experts, or none."
        )
    return experts


def _object(path: Path, name: str, metadata: dict[str, str]) -> dict[str, Any]:
    return _object_of(path, name, metadata.get(name, "{}"))


def _object_of(path: Path, name: str, text: str) -> dict[str, Any]:
    value = _json(path, name, text)
    if not isinstance(value, dict):
        raise AggregatorError(
            f"{path.name} is not a sound aggregator: {name} should hold an object, found {type(value).__name__}."
        )
    return value


def _json(path: Path, name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AggregatorError(
            f"{path.name} is not a sound aggregator: {name} is not JSON ({_brief(error)})."
        ) from error


def _shape(shape: tuple | None) -> str:
    return "absent" if shape is None else f"of shape {list(shape)}"


def _brief(error: BaseException) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
