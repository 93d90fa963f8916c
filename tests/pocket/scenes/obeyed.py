"""Whether places are obeyed: python tests/pocket scenes.obeyed [base | near_people ...]

Pairs of training subjects that no list has are sampled (DDIM, 20 steps), cut in two, and the nearest training picture of
either half is looked up.
"""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import random  # noqa: E402

import torch  # noqa: E402

from .. import common, data, evaluate, sampling, unet, vae  # noqa: E402
from . import models, pairs, pictures  # noqa: E402

PAIRS, STEPS, SCALE = 48, 20, 3.0


def chosen() -> list[tuple[data.Subject, data.Subject]]:
    draw, subjects, listed = random.Random(common.SEED + 1), data.subjects("train"), pairs.listed()
    found = []
    while len(found) < PAIRS:
        left, right = draw.sample(subjects, 2)
        if frozenset((left.code, right.code)) not in listed:
            found.append((left, right))
    return found


@torch.no_grad()
def sample(both: models.Both, captions: list[tuple[str, ...]]) -> torch.Tensor:
    """-> pictures [M, 3, 64, 128]"""
    noise = torch.randn(len(captions), 4, 8, 16, generator=torch.Generator().manual_seed(5))
    context, empty = (both.context(models.tokenize(rows)) for rows in (captions, [("", "")]))
    z = sampling.ddim_of(lambda x, t, c: unet.predict(both.unet, x, t, c), context, empty, noise, STEPS, SCALE)
    return vae.decode(pictures.autoencoder(), z)


def main() -> None:
    stage = sys.argv[1] if len(sys.argv) > 1 else "base"
    both = models.base() if stage == "base" else models.expert(*stage.split("_"))
    rows, subjects = chosen(), data.subjects("train")
    real = data.pictures(subjects, ["twemoji"]).float() / 255
    painted = sample(both, [tuple(pictures.plain(s).caption for s in row) for row in rows])
    halves = [evaluate.nearest(half, real).tolist() for half in painted.chunk(2, dim=-1)]
    found = [tuple(subjects[i].code for i in each) for each in zip(*halves, strict=True)]
    wanted = [(left.code, right.code) for left, right in rows]
    shares = {
        "left right": sum(f[0] == w[0] for f, w in zip(found, wanted, strict=True)),
        "right right": sum(f[1] == w[1] for f, w in zip(found, wanted, strict=True)),
        "both right": sum(f == w for f, w in zip(found, wanted, strict=True)),
        "left subject on the right": sum(f[1] == w[0] for f, w in zip(found, wanted, strict=True)),
        "right subject on the left": sum(f[0] == w[1] for f, w in zip(found, wanted, strict=True)),
    }
    print(f"{stage}, {PAIRS} unseen pairs of training subjects, cfg {SCALE:g}: "
          + ", ".join(f"{name} {count / PAIRS:.2f}" for name, count in shares.items())
          + f"; chance {1 / len(subjects):.4f}")  # fmt: skip


if __name__ == "__main__":
    main()
