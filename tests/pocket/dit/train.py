"""Trains the DiT's base and its experts: python tests/pocket dit.train [stages ...] [--minutes M]

Stages: base, then people, animals, things from it, on the pictures of the scenes' base and near experts; the text encoder is
the scenes', frozen. Each can be interrupted and resumed (state in .pocket/), starts from a fixed seed, and writes its
weights to weights/dit/ when it ends; a stage whose weights are there is skipped.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from .. import clock, common, diffusion, packing  # noqa: E402
from ..scenes import models, pictures  # noqa: E402
from ..scenes.train import BATCH, SINGLES_EVERY, Source  # noqa: E402
from . import network  # noqa: E402

STAGES = ("base", *common.DOMAINS)
MINUTES = {"base": 13.0, "expert": 4.0}
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
    params = [p for p in net.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=PEAK[kind], betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = clock.Ema(net, DECAY[kind])
    run = clock.Run(f"dit_{stage}", minutes, net=net, opt=opt, ema=ema)
    unknown = 0.0 if kind == "base" else diffusion.EXPERT_NO_WORD
    going = run.share < 1
    while going:
        for group in opt.param_groups:
            group["lr"] = clock.rate(run.share, PEAK[kind], floor=0.02)
        x0, ids = sources[run.step % SINGLES_EVERY == SINGLES_EVERY - 1].next()
        t = (torch.randperm(len(x0)) + torch.rand(len(x0))) / len(x0)
        x, velocity = network.noised(x0, torch.randn_like(x0), t)
        with torch.no_grad():
            context = text.context(ids, unknown)
        loss = (network.predict(net, x, t, context) - velocity).square().mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        ema.update(net)
        going = run.tick(len(x0), loss=loss.detach())
    run.save()
    ema.write_to(net)
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
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("stages", nargs="*", metavar="stage", help=f"any of {', '.join(STAGES)}; default: all")
    ask.add_argument("--minutes", type=float, help="of every stage named")
    args = ask.parse_args()
    if unknown := set(args.stages) - set(STAGES):
        ask.error(f"unknown stage {', '.join(sorted(unknown))}")
    for stage in args.stages or STAGES:
        if not (network.WEIGHTS / f"{stage}.safetensors").exists():
            train(stage, args.minutes or MINUTES["base" if stage == "base" else "expert"])


if __name__ == "__main__":
    main()
