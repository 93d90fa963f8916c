"""Every name of ComfyUI's that the pack uses, checked against a ComfyUI.

    python -m tests.support.comfy.surface                          against the one that the tests run on
    COMFYUI_PATH=... python -m tests.support.comfy.surface         against your own

Reads the pack's sources (uses.py says how), looks names up in the host's modules and in a toy checkpoint's model, CLIP
and VAE, and prints what is missing or is called otherwise. Exits with 1, or with 0 where nothing is.

Out of its sight: how the host calls us (wrappers, callbacks, node methods), and what comes back from most calls.
"""

from __future__ import annotations

import ast
import sys
import tempfile
from pathlib import Path
from typing import Any

from .bootstrap import REPOSITORY, make_base
from .checkpoints import ensure_checkpoints
from .inprocess import Host
from .uses import Use, annotated_fields, check_source

FOLDERS = ("nodes", "afa_core")


def check_pack(host: Host) -> list[Use]:
    """Every use in the pack's sources. Toy checkpoints must lie in the host's models folder."""
    samples = host_objects(host)
    trees = {
        path.relative_to(REPOSITORY).as_posix(): ast.parse(path.read_text())
        for folder in FOLDERS
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
    }
    fields = {}
    for tree in trees.values():
        fields |= annotated_fields(tree, samples)
    return [use for place, tree in trees.items() for use in check_source(tree, place, samples, fields)]


def host_objects(host: Host) -> list[Any]:
    """A real object of each class of the host's that our annotations name most."""
    model, clip, vae = host.call("CheckpointLoaderSimple", ckpt_name="tiny_sdxl_a.safetensors")[:3]
    return [model, clip, vae, model.model, model.model.diffusion_model]


def main() -> int:
    ensure_checkpoints()
    with tempfile.TemporaryDirectory() as folder:
        host = Host(make_base(Path(folder)))
        uses = check_pack(host)
    from comfyui_version import __version__

    print(f"ComfyUI {__version__}: {len(uses)} uses of {len({use.name for use in uses})} names")
    problems = [use for use in uses if use.problem]
    for use in problems:
        print(f"{use.place}: {use.name} {use.problem}")
    print("nothing is missing" if not problems else f"{len(problems)} missing or changed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
