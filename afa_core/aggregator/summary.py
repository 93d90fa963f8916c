"""An aggregator's metadata, read without its tensors: for the node in the browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..untrusted import brief, check_header, parsed, printable, short_text

LONGEST = 300
MOST_EXPERTS = 8


def read_summary(path: Path) -> dict[str, Any]:
    """{"name", "architecture", "num_experts", "experts": [{"file", "prediction"}], "training": {...}, "routing": {...}}.

    Only short texts and single numbers are passed on, and one mean share an expert. What the file does not say
    is absent or empty. Raises ValueError where there is nothing that could be read.
    """
    try:
        return _of_folder(path) if path.is_dir() else _of_file(path)
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror or brief(error)})") from error


def _of_file(path: Path) -> dict[str, Any]:
    check_header(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError(f"{path.name} is incomplete: it should have a header of {size} bytes")
        header = _object(parsed("its header", file.read(size).decode("utf-8", "replace")))
    metadata = _object(header.get("__metadata__"))
    if metadata.get("format") != "afa":
        raise ValueError(f"{path.name} is not an AFA aggregator")
    config, training, routing = (_object(_json(metadata, name)) for name in ("config", "training", "routing"))
    experts = _json(metadata, "experts")
    experts = experts[:MOST_EXPERTS] if isinstance(experts, list) else []
    mean = routing.get("mean")
    return {
        "name": path.name,
        "architecture": _text(config.get("architecture")),
        "num_experts": config.get("num_experts") if type(config.get("num_experts")) is int else len(experts),
        "experts": [{key: _text(_object(e).get(key)) for key in ("file", "prediction")} for e in experts],
        "training": {printable(key, 40): _short(value) for key, value in training.items() if _short(value) is not None},
        "routing": {"mean": [_short(share) for share in mean[:MOST_EXPERTS]]} if isinstance(mean, list) else {},
    }


def _of_folder(path: Path) -> dict[str, Any]:
    """The authors' layout, which names no experts."""
    top = _object(parsed("model_config.json", short_text(path / "model_config.json", "model_config.json")))
    count = top.get("num_models")
    return {
        "name": path.name,
        "architecture": "",
        "num_experts": count if type(count) is int else 0,
        "experts": [],
        "training": {},
        "routing": {},
    }


def _json(metadata: dict[str, Any], name: str) -> Any:
    text = metadata.get(name)
    return parsed(name, text) if isinstance(text, str) else None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return printable(value, LONGEST) if isinstance(value, str) else ""


def _short(value: Any) -> str | int | float | None:
    """Texts cut short and numbers that JSON has; None for everything else."""
    if isinstance(value, str):
        return _text(value)
    if type(value) not in (int, float):
        return None
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except ValueError:
        return None
