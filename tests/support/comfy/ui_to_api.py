"""Workflows as the front end saves them, turned into prompts for the server, as the front end does on Queue.

Only what our templates use: no reroutes, no bypassed or muted nodes, no subgraphs.
"""

from typing import Any

NOTES = {"Note", "MarkdownNote"}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
ACTIVE = 0


def ui_to_api(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The prompt of a workflow; `object_info` as the server sends it.

    Raises ValueError for what the server does not know, and for what does not fit its nodes' inputs.
    """
    links = {link[0]: link for link in workflow["links"]}
    nodes = [node for node in workflow["nodes"] if node["type"] not in NOTES]
    prompt = {}
    for node in nodes:
        kind, name = node["type"], f"node {node['id']} ({node['type']})"
        if kind not in object_info:
            raise ValueError(f"{name} is of a kind that the server does not have")
        if node.get("mode", ACTIVE) != ACTIVE:
            raise ValueError(f"{name} is muted or bypassed")
        inputs = dict(_widgets(name, object_info[kind], list(node.get("widgets_values", []))))
        known = _inputs(object_info[kind])
        for socket in node.get("inputs", []):
            if socket["name"] not in known:
                raise ValueError(f"{name} has no input {socket['name']}")
            if socket.get("link") is not None:
                _, source, output, target, _, kind_of_wire = links[socket["link"]]
                if target != node["id"]:
                    raise ValueError(f"link {socket['link']} does not lead to {name}")
                if known[socket["name"]][0] not in (kind_of_wire, "*"):
                    raise ValueError(f"{name} takes no {kind_of_wire} at {socket['name']}")
                inputs[socket["name"]] = [str(source), output]
        prompt[str(node["id"])] = {"class_type": kind, "inputs": inputs, "_meta": {"title": node.get("title", kind)}}
    return prompt


def _inputs(info: dict[str, Any]) -> dict[str, list]:
    """Every input's specification, in the order of the node's widgets."""
    return {name: spec for part in ("required", "optional") for name, spec in info["input"].get(part, {}).items()}


def _widgets(name: str, info: dict[str, Any], values: list):
    """(input, value) of every widget."""
    for widget, (kind, *rest) in _inputs(info).items():
        settings = rest[0] if rest else {}
        if not isinstance(kind, list) and kind not in WIDGET_TYPES or settings.get("forceInput"):
            continue
        if not values:  # a widget that is younger than the workflow: left to its default, as the front end leaves it
            if "default" in settings:
                yield widget, settings["default"]
            continue
        yield widget, values.pop(0)
        if settings.get("control_after_generate"):  # the front end's own widget below a seed
            values.pop(0)
    if values:
        raise ValueError(f"{name} has values that belong to no widget: {values}")
