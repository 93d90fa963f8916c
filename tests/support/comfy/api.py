"""Graphs in the format of ComfyUI's API."""

from __future__ import annotations

from typing import Any


def node(kind: str, **inputs) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
