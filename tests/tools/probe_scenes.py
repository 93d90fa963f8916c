"""The probe on the scenes' near experts: python -m tests.tools.probe_scenes [PICTURES] [NOISES]

Prints the node's verdict and table for the three experts on the two watched lists on which `make tables` prints what training
realised, and for one expert beside a copy with a little noise. Needs the emoji, which npm fetches once.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.tables import folders  # noqa: E402
from tests.tables.budget import FULL  # noqa: E402
from tests.tables.search import RESOLUTION  # noqa: E402
from tests.tables.world import World, start  # noqa: E402

LISTS = ("watched_experts_only", "watched_unseen")
PICTURES, NOISES = 60, 8


def probed(world: World, models: list, name: str, pictures: int = PICTURES, noises: int = NOISES) -> tuple[str, dict]:
    """The node's verdict and report on a list."""
    sockets = {f"model_{i}": model for i, model in enumerate(models, start=1)}
    widgets = {"prompt_folder": str(folders.listed(name)), "resolution": RESOLUTION, "pictures": pictures, "noises": noises}
    verdict, _, report, _ = world.call("AFAProbe", clip=world.clip, vae=world.vae, **sockets, **widgets)
    return verdict, json.loads(report)


def main(pictures: int = PICTURES, noises: int = NOISES) -> None:
    world = start(FULL)

    def shown(models: list, name: str, count: int) -> dict:
        started = time.perf_counter()
        verdict, report = probed(world, models, name, count, noises)
        print(f"{verdict}\n\n{time.perf_counter() - started:.0f} s\n")
        return report

    models = [*world.sockets().values()]
    print(", ".join(f"model_{i} is {name}" for i, name in enumerate(world.experts, start=1)), "\n")
    for name in LISTS:
        print(f"{name}:\n")
        for row in shown(models, name, pictures)["by_level"]:
            gains = ", ".join(f"{name} {100 * gain:+.1f} %" for name, gain in row["gains"].items())
            print(f"timestep {row['timestep']:3}: fixed mix {100 * row['fixed_mix_gain']:+.1f} %; beyond it {gains}")
    print("\nOne expert beside a copy with noise of 1e-4 on every weight:\n")
    shown([models[0], noisy(world.load(world.experts[0])[0], 1e-4)], LISTS[-1], min(pictures, 6))


def noisy(model, scale: float):
    import torch

    with torch.inference_mode():
        for number, weight in enumerate(model.model.diffusion_model.parameters()):
            weight.add_(scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)))
    return model


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
