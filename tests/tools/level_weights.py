"""What weights by noise level gain over equal shares, without training: python -m tests.tools.level_weights [PICTURES] [NOISES]

The probe's weights come from pairs that the scenes' near experts know; their loss is measured on pairs that neither the experts
nor the weights have seen. Once with the three experts as they are, and once with the third one spoiled by noise on its weights.
Needs the emoji, which npm fetches once.
"""

import os
import sys

from tests.tools.probe_scenes import LISTS, noisy

SPOILED = 0.02
"""Standard deviation of the noise on each weight of the spoiled expert."""


def main(pictures: int = 40, noises: int = 4) -> None:
    from tests.pocket.scenes import checkpoints
    from tests.pocket.scenes.world import host
    from tests.tables import folders

    running, sources = host(), [folders.listed(name) for name in LISTS]
    sets = [checkpoints.load(running, checkpoints.expert_names("near")) for _ in range(2)]
    noisy(sets[1][2][0], SPOILED)
    for title, parts in zip(("as they are", "the third spoiled"), sets, strict=True):
        models = [model for model, _, _ in parts]
        _report(title, *(_grams(models, parts[0], source, pictures, noises) for source in sources))


def _grams(models, parts, source, pictures: int, noises: int):
    from afa_core.host.experts.experts import Expert
    from afa_core.host.probing import ProbeSettings, probe
    from afa_core.training.data.prompt_folder import read_prompt_folder
    from tests.tables.search import RESOLUTION

    experts = [Expert(model, f"model_{i}") for i, model in enumerate(models, start=1)]
    return probe(experts, *parts[1:], read_prompt_folder(source), ProbeSettings(pictures, noises, RESOLUTION)).grams


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
