"""What the nodes share: the pack's socket types, numbered expert sockets, and the experts' names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..afa_core.host.experts.experts import Expert

CATEGORY = "AFA"
MAX_EXPERTS = 8

AggregatorType = io.Custom("AFA_AGGREGATOR")
RoutingType = io.Custom("AFA_ROUTING")

LOADER_NAMES = ("ckpt_name", "unet_name", "model_name")


def schema(**settings: Any) -> io.Schema:
    """A node's schema without the fields that this host does not have yet.

    A node that reports to the browser is `not_idempotent`: else the host answers for a twin of it, in this
    graph or in the next, with what it has kept of the first, and the twin's viewer stays empty.
    """
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(category=CATEGORY, **{name: value for name, value in settings.items() if name in known})


def numbered(socket: type, prefix: str, tooltip: str, least: int = 2, most: int = MAX_EXPERTS) -> list[io.Input]:
    """`prefix`_1 to _least, and optional ones up to _most."""
    return [socket.Input(f"{prefix}_{i}", optional=i > least, tooltip=f"{tooltip} {i}.") for i in range(1, most + 1)]


def connected(prefix: str, sockets: dict[str, Any]) -> dict[str, Any]:
    """What is connected to the numbered sockets, in their order."""
    names = (f"{prefix}_{i}" for i in range(1, MAX_EXPERTS + 1))
    return {name: sockets[name] for name in names if sockets.get(name) is not None}


def experts(cls: type[io.ComfyNode], models: dict[str, ModelPatcher]) -> list[Expert]:
    """The models on a node's sockets, named by socket and checkpoint."""
    return [Expert(model, label(cls, socket)) for socket, model in connected("model", models).items()]


def label(cls: type[io.ComfyNode], socket: str) -> str:
    """`socket`, with the file that the graph loads into it."""
    name = source_file(cls.hidden.prompt or {}, cls.hidden.unique_id, socket)
    return f"{socket} ({name})" if name else socket


def source_file(prompt: dict[str, Any], node_id: str, socket: str) -> str | None:
    """The file name at the far end of a socket's wire, through LoRAs and patches on the way."""
    names = [inputs[name] for inputs in _upstream(prompt, node_id, socket) for name in LOADER_NAMES if name in inputs]
    return next((name for name in names if isinstance(name, str)), None)


def source_loras(prompt: dict[str, Any], node_id: str, socket: str) -> list[dict[str, Any]]:
    """The LoRAs on a socket's wire, in the order of their application: [{"file", "strength", "strength_clip"}].

    One whose name or strength another node computes is left out.
    """
    loras = [
        {
            "file": inputs["lora_name"],
            "strength": inputs["strength_model"],
            "strength_clip": inputs.get("strength_clip", 0.0),
        }
        for inputs in _upstream(prompt, node_id, socket)
        if "lora_name" in inputs and "strength_model" in inputs
    ]
    known = [lora for lora in loras[::-1] if not any(isinstance(value, list) for value in lora.values())]
    return [lora for lora in known if lora["strength"] or lora["strength_clip"]]  # as the host leaves out the others


def folded(inputs: list[io.Input], everyday: set[str]) -> list[io.Input]:
    """The inputs, with all widgets but these folded away as "advanced", as far as the front end can."""
    for slot in inputs:
        if hasattr(slot, "default") and slot.id not in everyday:
            slot.extra_dict = {**(slot.extra_dict or {}), "advanced": True}
    return inputs


def _upstream(prompt: dict[str, Any], node_id: str, socket: str) -> Iterator[dict[str, Any]]:
    """The inputs of every node on a socket's wire, the nearest first, up to a loader's."""
    link = prompt.get(node_id, {}).get("inputs", {}).get(socket)
    kind = "model" if socket == "base" else socket.split("_")[0]
    for _ in range(len(prompt)):
        if not isinstance(link, list) or link[0] not in prompt:
            return
        inputs = prompt[link[0]]["inputs"]
        yield inputs
        if any(isinstance(inputs.get(name), str) for name in LOADER_NAMES):
            return
        link = inputs.get(kind, inputs.get(f"{kind}_1", inputs.get(f"{kind}1")))
