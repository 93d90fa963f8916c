"""What a node's widgets are set to before anybody touches them."""

from typing import Any


def defaults(node: str) -> dict[str, Any]:
    """Of a node of the host in this process: the default, or the first choice."""
    import nodes

    found = {}
    for name, (_, *rest) in nodes.NODE_CLASS_MAPPINGS[node].INPUT_TYPES()["required"].items():
        options = rest[0] if rest else {}
        if "default" in options:
            found[name] = options["default"]
        elif "options" in options:
            found[name] = options["options"][0]
    return found
