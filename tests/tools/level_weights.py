"""What weights by noise level gain over equal shares, without training: python -m tests.tools.level_weights [PICTURES] [NOISES]

The probe's weights come from pictures of what the pocket experts know; their loss is measured on pictures that neither the experts
nor the weights have seen. Once with the three experts as they are, and once with the third one spoiled by noise on its weights. The
numbers of docs/probe.md come from here. Needs the emoji, which npm fetches once.
"""

import os
import sys
import tempfile
from pathlib import Path

from tests.support.comfy.bootstrap import make_base
from tests.support.comfy.inprocess import Host
from tests.tools.probe_pocket import EXPERTS, SIDE, noisy

SPOILED = 0.02
"""Standard deviation of the noise on each weight of the spoiled expert."""


def main(pictures: int = 40, noises: int = 4) -> None:
    from tests.pocket import assemble, folder

    with tempfile.TemporaryDirectory() as place:
        base = make_base(Path(place))
        assemble.ensure(base / "models" / "checkpoints")
        host = Host(base)
        host.load_pack()
        known, held_out = folder.watched(), folder.held_out()
        sets = [
            [host.call("CheckpointLoaderSimple", ckpt_name=f"{name}.safetensors")[:3] for name in EXPERTS] for _ in range(2)
        ]
        noisy(sets[1][2][0], SPOILED)
        for title, parts in zip(("as they are", "the third spoiled"), sets, strict=True):
            models = [model for model, _, _ in parts]
            grams = [_grams(models, parts[0], source, pictures, noises) for source in (known, held_out)]
            _report(title, *grams)


def _grams(models, parts, source, pictures: int, noises: int):
    from afa_core.host.experts.experts import Expert
    from afa_core.host.probing import ProbeSettings, probe
    from afa_core.training.data.prompt_folder import read_prompt_folder

    experts = [Expert(model, f"model_{i}") for i, model in enumerate(models, start=1)]
    return probe(experts, *parts[1:], read_prompt_folder(Path(source)), ProbeSettings(pictures, noises, SIDE)).grams


def _report(title: str, known, held_out) -> None:
    import torch

    from afa_core.probe.measure import LEVELS, interval, quadratic
    from afa_core.probe.weights import level_weights

    found = level_weights(known)
    weights = torch.tensor(found["weights"], dtype=held_out.dtype)
    ours, equal = (quadratic(held_out, rows) for rows in (weights, torch.full_like(weights, 1 / weights.shape[1])))
    scale = equal.mean(0)
    ours, equal = (ours / scale).mean(1), (equal / scale).mean(1)
    low, high = interval(ours, equal)
    print(f"three experts, {title}; drawn to equal shares by {found['strength']:g}")
    for level, row in zip(LEVELS, weights.tolist(), strict=True):
        print(f"  level {level / 1000:.2f}: " + "  ".join(f"{weight:.2f}" for weight in row))
    print(f"  expected {100 * found['gain']:+.2f} % ({100 * found['low']:+.2f} to {100 * found['high']:+.2f})")
    gain = 100 * (1 - ours.mean() / equal.mean())
    print(f"  less loss than the noise average on {len(ours)} unseen pictures: {gain:+.2f} % ({100 * low:+.2f} to {100 * high:+.2f})")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*map(int, sys.argv[1:]))
