"""Writes locales/en/nodeDefs.json from the nodes themselves: what translators start from.

python -m tests.tools.locales
"""

import json
from pathlib import Path

from tests.support.comfy.bootstrap import PACK_NAME, REPOSITORY
from tests.support.comfy.server import LiveServer

FOLDER = REPOSITORY / "locales"


def english(object_info: dict) -> dict:
    """The texts of our nodes, in the layout of ComfyUI's nodeDefs.json, from what the server answers to /object_info."""
    ours = {name: node for name, node in object_info.items() if node["python_module"] == f"custom_nodes.{PACK_NAME}"}
    return {name: _texts(node) for name, node in sorted(ours.items())}


def _texts(node: dict) -> dict:
    inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    tooltips = {name: spec[1]["tooltip"] for name, spec in inputs.items()}
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {name: {"tooltip": tooltip} for name, tooltip in tooltips.items()},
    }


def main() -> None:
    import tempfile

    from tests.support.comfy.bootstrap import make_base

    with tempfile.TemporaryDirectory() as folder, LiveServer(make_base(Path(folder))) as server:
        texts = json.dumps(english(server.get("/object_info")), indent=2)
    (FOLDER / "en" / "nodeDefs.json").write_text(texts + "\n")
    print(f"wrote {FOLDER / 'en' / 'nodeDefs.json'}")


if __name__ == "__main__":
    main()
