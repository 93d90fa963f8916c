"""The probe on the pocket experts and captioned emoji: python -m tests.tools.probe_pocket [PICTURES] [NOISES]

Prints the node's verdict and table for the three experts on the two sets of pictures on which tests.pocket.results
gives what training realised, and for one expert beside a copy with a little noise. The numbers of docs/probe.md come
from here. Needs the emoji, which npm fetches once.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.inprocess import Host

EXPERTS = ("pocket_people", "pocket_animals", "pocket_things")
SIDE = 64


def main(pictures: int = 60, noises: int = 8) -> None:
    from tests.pocket import assemble, folder

    with tempfile.TemporaryDirectory() as place:
        base = make_base(Path(place))
        assemble.ensure(base / "models" / "checkpoints")
        host = Host(base)
        host.load_pack()

        def load(name):
            return host.call("CheckpointLoaderSimple", ckpt_name=f"{name}.safetensors")[:3]

        def probed(models, clip, vae, source, count):
            sockets = {f"model_{i}": model for i, model in enumerate(models, start=1)}
            widgets = {"prompt_folder": str(source), "resolution": SIDE, "pictures": count, "noises": noises}
            started = time.perf_counter()
            verdict, _, report, _ = host.call("AFAProbe", clip=clip, vae=vae, **sockets, **widgets)
            print(f"{verdict}\n\n{time.perf_counter() - started:.0f} s\n")
            return json.loads(report)

        parts = [load(name) for name in EXPERTS]
        _, clip, vae = parts[0]
        print(", ".join(f"model_{i} is {name}" for i, name in enumerate(EXPERTS, start=1)), "\n")
        for source in (folder.watched(), folder.held_out()):
            print(f"{source.name}:\n")
            report = probed([model for model, _, _ in parts], clip, vae, source, pictures)
            for row in report["by_level"]:
                gains = ", ".join(f"{name} {100 * gain:+.1f} %" for name, gain in row["gains"].items())
                print(
                    f"timestep {row['timestep']:3}: fixed mix {100 * row['fixed_mix_gain']:+.1f} %; beyond it {gains}"
                )
        print("\nOne expert beside a copy with noise of 1e-4 on every weight:\n")
        probed([parts[0][0], noisy(load(EXPERTS[0])[0], 1e-4)], clip, vae, folder.held_out(), min(pictures, 6))


def noisy(model, scale: float):
    import torch

    with torch.inference_mode():
        for number, weight in enumerate(model.model.diffusion_model.parameters()):
            weight.add_(scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)))
    return model


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
