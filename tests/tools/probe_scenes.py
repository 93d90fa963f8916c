"""The probe on the scenes' near experts: python -m tests.tools.probe_scenes [PICTURES] [NOISES]

Prints the node's verdict and table for the three experts on the two watched lists on which `make tables` prints what training
realised, and for one expert beside a copy with a little noise. Needs the emoji, which npm fetches once.
"""

import json
import os
import sys
import time

LISTS = ("watched_experts_only", "watched_unseen")


def main(pictures: int = 60, noises: int = 8) -> None:
    from tests.pocket.scenes import checkpoints
    from tests.pocket.scenes.world import host
    from tests.tables import folders
    from tests.tables.search import RESOLUTION

    running, names = host(), checkpoints.expert_names("near")

    def probed(models, source, count):
        sockets = {f"model_{i}": model for i, model in enumerate(models, start=1)}
        widgets = {"prompt_folder": str(source), "resolution": RESOLUTION, "pictures": count, "noises": noises}
        started = time.perf_counter()
        verdict, _, report, _ = running.call("AFAProbe", clip=clip, vae=vae, **sockets, **widgets)
        print(f"{verdict}\n\n{time.perf_counter() - started:.0f} s\n")
        return json.loads(report)

    parts = checkpoints.load(running, names)
    _, clip, vae = parts[0]
    print(", ".join(f"model_{i} is {name}" for i, name in enumerate(names, start=1)), "\n")
    for name in LISTS:
        print(f"{name}:\n")
        report = probed([model for model, _, _ in parts], folders.listed(name), pictures)
        for row in report["by_level"]:
            gains = ", ".join(f"{name} {100 * gain:+.1f} %" for name, gain in row["gains"].items())
            print(f"timestep {row['timestep']:3}: fixed mix {100 * row['fixed_mix_gain']:+.1f} %; beyond it {gains}")
    print("\nOne expert beside a copy with noise of 1e-4 on every weight:\n")
    ((copy, _, _),) = checkpoints.load(running, names[:1])
    probed([parts[0][0], noisy(copy, 1e-4)], folders.listed(LISTS[-1]), min(pictures, 6))


def noisy(model, scale: float):
    import torch

    with torch.inference_mode():
        for number, weight in enumerate(model.model.diffusion_model.parameters()):
            weight.add_(scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)))
    return model


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*map(int, sys.argv[1:]))
