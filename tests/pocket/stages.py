"""Trainings in stages: the loop of one, and the command line of all."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from . import clock


def fit(run: str, minutes: float, net: nn.Module, trained: nn.Module, rates: tuple[float, float],
        loss: Callable[[int], tuple[Tensor, int]]) -> clock.Run:  # fmt: skip
    """Trains what needs gradients in `trained`, a part of `net`, and leaves the average of its weights there.

    run: the name of the resumable state; rates: the peak of the learning rate, and the decay of the average
    loss: of a step, by its number, with the size of its batch
    """
    peak, decay = rates
    params = [p for p in trained.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=peak, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = clock.Ema(trained, decay)
    state = clock.Run(run, minutes, net=net, opt=opt, ema=ema)
    going = state.share < 1
    while going:
        for group in opt.param_groups:
            group["lr"] = clock.rate(state.share, peak, floor=0.02)
        found, count = loss(state.step)
        opt.zero_grad(set_to_none=True)
        found.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        ema.update(trained)
        going = state.tick(count, loss=found.detach())
    state.save()
    ema.write_to(trained)
    return state


def command(doc: str, stages: Sequence[str], minutes: Callable[[str], float], weights: Path,
            train: Callable[[str, float], None]) -> None:  # fmt: skip
    """Trains the stages named, by default all; one whose weights are there is skipped. minutes: of a stage, if none are given."""
    ask = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("stages", nargs="*", metavar="stage", help=f"any of {', '.join(stages)}; default: all")
    ask.add_argument("--minutes", type=float, help="of every stage named")
    args = ask.parse_args()
    if unknown := set(args.stages) - set(stages):
        ask.error(f"unknown stage {', '.join(sorted(unknown))}")
    for stage in args.stages or stages:
        if not (weights / f"{stage}.safetensors").exists():
            train(stage, args.minutes or minutes(stage))
