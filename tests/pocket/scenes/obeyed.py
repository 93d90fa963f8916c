"""Whether places are obeyed: python tests/pocket scenes.obeyed [base | near_people | dit_base | dit_people ...] [PICTURE]

Pairs of training subjects that no list has are sampled (20 steps of DDIM, of Euler for a DiT), cut in two, and the nearest
training picture of either half is looked up. PICTURE: where the first eight are saved.
"""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import random  # noqa: E402

import torch  # noqa: E402
from PIL import Image  # noqa: E402

from .. import common, data, sampling, unet, vae  # noqa: E402
from ..dit import network  # noqa: E402
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
def sample(stage: str, captions: list[tuple[str, ...]]) -> torch.Tensor:
    """-> pictures [M, 3, 64, 128]"""
    noise = torch.randn(len(captions), 4, 8, 16, generator=torch.Generator().manual_seed(5))
    kind, _, domain = stage.partition("_")
    both = models.expert(kind, domain) if kind in models.KINDS else models.base()
    given = *(both.context(models.tokenize(rows)) for rows in (captions, [("", "")])), noise, STEPS, SCALE
    if kind == "dit":
        net = network.base() if domain == "base" else network.expert(domain)
        z = sampling.euler(lambda *at: network.predict(net, *at), *given)
    else:
        z = sampling.ddim(lambda *at: unet.predict(both.unet, *at), *given)
    return vae.decode(pictures.autoencoder(), z)


def nearest(found: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Index of the nearest real picture, by squared distance over 32x32 averages (64 px noise decides nothing)."""
    small, real = (torch.nn.functional.avg_pool2d(x, 2).flatten(1) for x in (found, real))
    return torch.cdist(small, real).argmin(1)


def main() -> None:
    stage = sys.argv[1] if len(sys.argv) > 1 else "base"
    rows, subjects = chosen(), data.subjects("train")
    real = data.pictures(subjects, ["twemoji"]).float() / 255
    painted = sample(stage, [tuple(pictures.plain(s).caption for s in row) for row in rows])
    if sys.argv[2:]:
        sheet = painted[:8].unflatten(0, (4, 2)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
        Image.fromarray((255 * sheet.clamp(0, 1)).byte().numpy()).save(sys.argv[2])
    halves = [nearest(half, real).tolist() for half in painted.chunk(2, dim=-1)]
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
