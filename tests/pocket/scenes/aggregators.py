"""Trains the scenes' aggregators that are compared: python -m tests.pocket.scenes.aggregators [--kind far] [--steps N]

All alike, from the same seed, on the same batches, draws and settings. Resumable; a finished training is not repeated.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path  # noqa: E402

from afa_core.training.loop import Report  # noqa: E402
from afa_core.training.session import LAST, Keeping, fit  # noqa: E402
from afa_core.training.state import TrainingSettings  # noqa: E402
from afa_core.training.tasks.aggregator import AggregatorSettings, AggregatorTask  # noqa: E402

from . import datasets, gate, world  # noqa: E402

VARIANTS = {
    "AFA": {},
    "last point only": {"ablations": ("blocks",)},
    "identity bias": {"identity_bias": True},
    "identity bias, points dropped": {"identity_bias": True},
    "identity bias, without load balance": {"identity_bias": True},
    "gate": {"identity_bias": True},
    "without spatial location": {"ablations": ("space",)},
    "without timestep": {"ablations": ("time",)},
    "without text": {"ablations": ("text",)},
}
"""What each one's configuration has beside the defaults. The gate's scalars stand where those of the identity bias do."""
EVERY = 2
"""So manieth blocks of a DiT have a fusion point. There are five: every fourth, the default, leaves none before the last two."""
OTHER_BLOCKS = {"every block": {"every": 1}, "every fourth block": {"every": 4}}
DROPPING = {"identity bias, points dropped"}
"""Points that leave experts alone leave the training, too."""
UNBALANCED = {"identity bias, without load balance"}
"""Nothing keeps their experts' mean weights together."""
TASKS = {"gate": gate.GateTask}
SEEDS = (1, 2, 3)
STEPS = {"near": 4000, "far": 2000, "lora": 400, "dit": 1000}
"""Of a training, by the kind of its experts."""
EVALUATE_EVERY = 1000
"""Steps between two losses of the watched pairs; nothing is chosen by them."""
SETTINGS = {"batch_size": datasets.BATCH, "learning_rate": 5e-4, "warmup_steps": 20, "ema": 0.999, "weight_decay": 0.01}
LOAD_BALANCE = 0.2


def variants(kind: str) -> dict[str, dict]:
    """Those of VARIANTS, and for DiTs other fusion points beside."""
    if kind != "dit":
        return VARIANTS
    return {name: {"every": EVERY, **changes} for name, changes in (VARIANTS | OTHER_BLOCKS).items()}


def path(of: world.World, name: str, seed: int, steps: int) -> Path:
    """Of the best weights; the last ones stand beside them."""
    return of.aggregators / f"{stem(of.kind, name, seed, steps)}.safetensors"


def last(of: world.World, name: str, seed: int, steps: int) -> Path:
    """Of the last weights."""
    return of.aggregators / f"{stem(of.kind, name, seed, steps)}{LAST}.safetensors"


def has_ended(file: Path, steps: int) -> bool:
    """A training saves its file from time to time."""
    from afa_core.aggregator.file import load_aggregator

    return file.exists() and load_aggregator(file).training["steps"] == steps


def stem(kind: str, name: str, seed: int, steps: int) -> str:
    return f"scenes_{kind}_{name.replace(' ', '_')}_{seed}_{steps}"


def train(of: world.World, name: str, seed: int, steps: int) -> Path:
    """Gives the file of the last weights; the best ones would mix how they were chosen with what is compared."""
    from afa_core.host.training.frozen_experts import outside_inference

    kept = path(of, name, seed, steps)
    sources = [{"file": f"{e.label}.safetensors", "prediction": e.prediction} for e in of.experts.experts]
    settings = TrainingSettings(steps=steps, seed=seed, evaluate_every=min(steps, EVALUATE_EVERY), **SETTINGS)

    def listen(report: Report) -> None:
        state = report.state
        if report.evaluation:
            print(f"[{kept.stem}] step {state.step}: watched {report.evaluation['held_out']:.4f}", flush=True)
        elif state.step % 20 == 0:
            mean = sum(state.losses[-20:]) / len(state.losses[-20:])
            print(f"[{kept.stem}] step {state.step}, {state.seconds / 60:.1f} min, loss {mean:.4f}", flush=True)

    with outside_inference():
        kind, config = TASKS.get(name, AggregatorTask), of.config(**variants(of.kind)[name])
        balance = 0.0 if name in UNBALANCED else LOAD_BALANCE
        asked = AggregatorSettings(load_balance=balance, drop_points=name in DROPPING)
        task = kind(of.experts, config, sources, asked, seed)
        fit(task, datasets.training(), settings, Keeping(kept, save_every=50), listen)
    return last(of, name, seed, steps)


def ship(of: world.World, trained: Path) -> None:
    """Beside the experts' weights, with what recognises its experts."""
    from afa_core.aggregator.file import load_aggregator, save_aggregator
    from afa_core.host.experts.identity import described

    named = [described(expert, f"{expert.label}.safetensors", []) for expert in of.experts.experts]
    save_aggregator(replace(load_aggregator(trained), experts=named), of.weights / "aggregator.safetensors")


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("variants", nargs="*", metavar="variant", help="default: all")
    ask.add_argument("--kind", default="near", choices=world.KINDS)
    ask.add_argument("--steps", type=int, help="by default as many as the kind has in STEPS")
    ask.add_argument("--seed", type=int, default=1)
    ask.add_argument(
        "--ship", action="store_true", help="commit the last weights of the one variant named, as far as it is trained"
    )
    args = ask.parse_args()
    of, steps = world.start(args.kind), args.steps or STEPS[args.kind]
    for name in args.variants or variants(args.kind):
        if args.ship:
            ship(of, last(of, name, args.seed, steps))
        else:
            train(of, name, args.seed, steps)


if __name__ == "__main__":
    main()
