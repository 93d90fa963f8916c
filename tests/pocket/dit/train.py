"""Trains the DiT's base and its experts: python tests/pocket dit.train [stages ...] [--minutes M]

Stages: base, then people, animals, things from it, on the pictures of the scenes' base and near experts; the text encoder is
the scenes', frozen. Each can be interrupted and resumed (state in .pocket/), starts from a fixed seed, and writes its
weights to weights/dit/ when it ends; a stage whose weights are there is skipped.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from .. import common, packing, stages  # noqa: E402
from ..scenes import models, pictures  # noqa: E402
from ..scenes.train import BATCH, EXPERT_NO_WORD, Source, drawn  # noqa: E402
from . import network  # noqa: E402

STAGES = ("base", *common.DOMAINS)
MINUTES = {"base": 15.0, "expert": 5.0}
PEAK = {"base": 2e-3, "expert": 1e-3}
DECAY = {"base": 0.998, "expert": 0.995}
"""Of the average of the weights."""


def train(stage: str, minutes: float) -> None:
    kind = "base" if stage == "base" else "expert"
    net, text = network.build() if kind == "base" else network.base(), models.base()
    net.train().requires_grad_(True)
    net.vector_in.requires_grad_(False)
    pools = pictures.pools("base" if kind == "base" else f"near_{stage}")
    sources = [Source(pool, batch) for pool, batch in zip(pools, BATCH.values(), strict=True)]
    unknown = 0.0 if kind == "base" else EXPERT_NO_WORD

    def loss(step: int) -> tuple[torch.Tensor, int]:
        x0, ids = drawn(sources, step)
        t = (torch.randperm(len(x0)) + torch.rand(len(x0))) / len(x0)
        x, velocity = network.noised(x0, torch.randn_like(x0), t)
        with torch.no_grad():
            context = text.context(ids, unknown)
        return (network.predict(net, x, t, context) - velocity).square().mean(), len(x0)

    run = stages.fit(f"dit_{stage}", minutes, net, net, (PEAK[kind], DECAY[kind]), loss)
    write(stage, net)
    run.say(f"done after {run.step} steps")


def write(stage: str, net: torch.nn.Module) -> None:
    """The averaged weights as they are committed: the base in float16, an expert as 8-bit differences from it."""
    network.WEIGHTS.mkdir(exist_ok=True)
    weights = net.state_dict()
    if stage == "base":
        packed = {key: value.half() for key, value in weights.items()}
    else:
        packed = packing.pack(weights, load_file(network.WEIGHTS / "base.safetensors"))
    save_file({key: value.contiguous() for key, value in packed.items()}, network.WEIGHTS / f"{stage}.safetensors")


def main() -> None:
    stages.command(
        __doc__, STAGES, lambda stage: MINUTES["base" if stage == "base" else "expert"], network.WEIGHTS, train
    )


if __name__ == "__main__":
    main()
