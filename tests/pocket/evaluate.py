"""Judges the pocket experts: python tests/pocket evaluate [loss] [retrieval] [sheet]   (default: all three)

(a) loss: v-prediction error on training and held-out pictures per expert and domain, with fixed noise and timesteps;
(b) retrieval: fixed training captions are sampled (base, and the right expert) and the nearest training picture looked up;
(c) sheet: tests/pocket/samples.png, the right expert's pictures beside the training pictures of the same names.
"""
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch  # noqa: E402

from . import common, data, diffusion, latents, sampling, sheet, unet, vae  # noqa: E402

EXPERTS = ("base", *common.DOMAINS)
NAMES = 200
SCALE = 3.0
STEPS = 20


@torch.no_grad()
def v_losses(both, z, captions, draws=4):
    """-> mean squared v error of each picture [M]; draw k of picture i always has the same noise and timestep."""
    table = unet.alphas()
    context = both.text(diffusion.text.tokenize(captions))
    g = torch.Generator().manual_seed(7)
    out = torch.zeros(len(z))
    for k in range(draws):
        noise = torch.randn(z.shape, generator=g)
        t = ((torch.arange(len(z)) * 0.618 + (k + 0.5) / draws) % 1 * unet.TIMESTEPS).long()
        x, v = unet.noised(z, noise, t, table)
        for i in range(0, len(z), 256):
            p = unet.predict(both.unet, x[i:i + 256], t[i:i + 256], context[i:i + 256])
            out[i:i + 256] += (p - v[i:i + 256]).square().mean((1, 2, 3)) / draws
    return out


def loss_table(experts):
    for split in ("train", "held_out"):
        z, captions, subjects = latents.plain(split, common.HANDS)
        print(f"v-loss on {split} pictures ({len(z)}), fixed noise\n{'':10}" + "".join(f"{d:>10}" for d in (*common.DOMAINS, "all")))
        for name, both in experts.items():
            each = v_losses(both, z, captions)
            row = [each[[i for i, s in enumerate(subjects) if s.domain == d]].mean() for d in common.DOMAINS]
            print(f"{name:10}" + "".join(f"{x:10.4f}" for x in (*row, each.mean())), flush=True)


def chosen(count=NAMES):
    """Fixed training captions: -> [(index of its picture, caption, subject)], spread over domains and hands."""
    _, captions, subjects = data.load("train")
    g = torch.Generator().manual_seed(11)
    codes = {}
    for i, s in enumerate(subjects):
        codes.setdefault(s.code, []).append(i)
    order = torch.randperm(len(codes), generator=g)[:count].tolist()
    groups = list(codes.values())
    return [(i, captions[i], subjects[i]) for n, k in enumerate(order) for i in [groups[k][n % len(groups[k])]]]


def draw(experts, rows, right, scale=SCALE, seed=5):
    """Samples of the rows' captions by the right expert or the base -> latents [n, 4, 8, 8]; noise depends on the row only."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(rows), 4, 8, 8, generator=g)
    out = torch.empty_like(noise)
    names = [s.domain if right else "base" for _, _, s in rows]
    for name in sorted(set(names)):
        at = [i for i, n in enumerate(names) if n == name]
        out[at] = sampling.ddim(experts[name], [rows[i][1] for i in at], noise[at], STEPS, scale)
    return out


def nearest(found, pictures):
    """Index of the nearest training picture in RGB, squared distance over 32x32 averages (64 px noise decides nothing)."""
    half = lambda x: torch.nn.functional.avg_pool2d(x, 2).flatten(1)  # noqa: E731
    return torch.cdist(half(found), half(pictures)).argmin(1)


def retrieval(experts, scales=(1.0, 2.0, SCALE, 5.0)):
    pictures, _, subjects = data.load("train")
    pictures = pictures.float() / 255
    net, rows = vae.load(), chosen()
    for right in (False, True):
        if right and len(experts) == 1:
            break
        for scale in scales:
            hit = nearest(vae.decode(net, draw(experts, rows, right, scale)), pictures)
            same = [subjects[h].code == s.code for h, (_, _, s) in zip(hit.tolist(), rows, strict=True)]
            hand = [h == i for h, (i, _, _) in zip(hit.tolist(), rows, strict=True)]
            parts = ", ".join(f"{d} {sum(x for x, r in zip(same, rows, strict=True) if r[2].domain == d) / sum(r[2].domain == d for r in rows):.2f}"
                              for d in common.DOMAINS)
            print(f"retrieval, {len(rows)} names, {'right expert' if right else 'base'}, cfg {scale:g}: subject {sum(same) / len(rows):.3f} "
                  f"({parts}), the very picture {sum(hand) / len(rows):.3f}; chance {1 / len(set(subjects)):.4f}", flush=True)


def available():
    return {n: diffusion.load(n) for n in EXPERTS if diffusion.weights_path(n).exists()}


def main():
    jobs = sys.argv[1:] or ["loss", "retrieval", "sheet"]
    experts = available()
    print("experts:", ", ".join(experts))
    if "loss" in jobs:
        loss_table(experts)
    if "retrieval" in jobs:
        retrieval(experts)
    if "sheet" in jobs:
        rows = chosen()
        by_domain = [[r for r in rows if r[2].domain == d][:20] for d in common.DOMAINS]
        rows = [r for group in by_domain for r in group]
        pictures = data.load("train")[0].float() / 255
        found = vae.decode(vae.load(), draw(experts, rows, len(experts) > 1))
        sheet.write(common.HERE / "samples.png", found, pictures[[i for i, _, _ in rows]], [c for _, c, _ in rows])


if __name__ == "__main__":
    main()
