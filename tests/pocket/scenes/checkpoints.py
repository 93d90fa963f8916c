"""The networks on scenes as the full checkpoints that CheckpointLoaderSimple reads: U-Nets (scenes_...) and DiTs (dit_...).

python tests/pocket scenes.checkpoints [FOLDER] writes both bases, the near experts and the DiTs; it needs no host.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from .. import assemble, common, packing
from ..dit import network
from . import models

BASE = "scenes_base"
WEIGHTS = {"scenes": models.WEIGHTS, "dit": network.WEIGHTS}
"""The folder of committed weights, by the first word of a checkpoint's name."""


def base_name(kind: str) -> str:
    return "dit_base" if kind == "dit" else BASE


def expert_names(kind: str) -> list[str]:
    return [f"dit_{domain}" if kind == "dit" else f"scenes_{kind}_{domain}" for domain in common.DOMAINS]


def ensure(folder: Path, names: list[str]) -> dict[str, Path]:
    """{name: path} of these checkpoints in `folder`, written where they are absent or stale."""
    words, decoder = models.WEIGHTS / "text_encoder.safetensors", common.WEIGHTS / "vae.safetensors"
    shared = cache(lambda: (assemble.text_state(words), load_file(decoder)))
    out = {}
    for name in names:
        base, part = _sources(name)
        out[name] = folder / f"{name}.safetensors"
        stamp = assemble.digest([base, words, decoder, part])
        assemble.write(out[name], stamp, lambda b=base, p=part: assemble.checkpoint(_weights(b, p), *shared()))
    return out


def load(running: Any, names: list[str]) -> list[tuple]:
    """(model, clip, vae) of each, from its file, by the host `running`: every call gives networks of its own."""
    paths = ensure(Path(running.base, "models", "checkpoints"), names)
    return [running.call("CheckpointLoaderSimple", ckpt_name=path.name)[:3] for path in paths.values()]


def _sources(name: str) -> tuple[Path, Path]:
    """The committed weights of a checkpoint's base, and its own."""
    family, _, part = name.partition("_")
    return WEIGHTS[family] / "base.safetensors", WEIGHTS[family] / f"{part}.safetensors"


def _weights(base: Path, part: Path) -> dict[str, Any]:
    return load_file(base) if part == base else packing.unpack(load_file(part), load_file(base))


def main() -> None:
    names = [name for kind in ("near", "dit") for name in (base_name(kind), *expert_names(kind))]
    for path in ensure(Path(sys.argv[1]) if sys.argv[1:] else common.WORK / "checkpoints", names).values():
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
