"""Which subject a half of a scene shows: python -m tests.pocket.scenes.judge [lists ...]

A small convolutional network of our own, trained on real pictures of all subjects in two hands, as they are and as the
autoencoder gives them back; the third hand it never sees. It shares nothing with the networks that paint. Trains once
(a few minutes, weights in .pocket/), and prints how often it is right on real pairs of the lists in every hand.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from functools import cache  # noqa: E402
from typing import NamedTuple  # noqa: E402

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from .. import common, data, others, vae  # noqa: E402
from . import datasets, pairs, pictures  # noqa: E402

TRAINED = ("twemoji", "noto")
UNSEEN = "fluent"
STEPS, BATCH, PEAK = 1000, 96, 3e-3
WIDTHS = (32, 96, 192, 256)
SOFT = 0.7
"""Share of a batch that the autoencoder gives back, as it does all that is painted."""
PATH = common.WORK / "judge.pt"


class Verdicts(NamedTuple):
    """Of each pair, whether the half shows its subject: bool [M]."""

    left: Tensor
    right: Tensor

    @property
    def both(self) -> Tensor:
        return self.left & self.right


def judged(painted: Tensor, rows: list[pairs.Pair]) -> Verdicts:
    """Pictures [M, 3, 64, 128] in 0..1 of these pairs; candidates are the subjects of the pairs."""
    codes = sorted({subject.code for pair in rows for subject in pair})
    index = [_classes().index(code) for code in codes]
    halves = []
    for side, half in enumerate(painted.chunk(2, dim=-1)):
        with torch.inference_mode():
            found = torch.cat([_network()(part) for part in half.split(BATCH)])[:, index].argmax(1)
        halves.append(found == torch.tensor([codes.index(pair[side].code) for pair in rows]))
    return Verdicts(*halves)


def on_real(rows: list[pairs.Pair], hand: str) -> Verdicts:
    """Of the real pairs in this hand, as the autoencoder gives them back."""
    latents = pictures.encoded([tuple(pictures.plain(s)._replace(hand=hand) for s in pair) for pair in rows])
    return judged(vae.decode(pictures.autoencoder(), latents), rows)


def weights_digest() -> str:
    """Of the trained weights; trains them first where they are not there."""
    import hashlib

    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in _network().state_dict().values())).hexdigest()


@cache
def _classes() -> list[str]:
    return [subject.code for subject in _subjects()]


def _subjects() -> list[data.Subject]:
    return [*data.subjects(), *(s for d in common.DOMAINS for s in others.of_experts(d)), *others.unseen()]


def build(classes: int) -> nn.Module:
    """Pictures [B, 3, 64, 64] in 0..1 -> logits [B, classes]."""
    first, *wider = WIDTHS
    layers = [nn.Conv2d(3, first, 5, 2, 2, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
    for before, after in zip(WIDTHS, wider, strict=False):
        layers += [nn.MaxPool2d(2), nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(WIDTHS[-1], classes))


@cache
def _network() -> nn.Module:
    with torch.inference_mode(False), torch.enable_grad():
        net = build(len(_classes()))
        if not PATH.exists():
            _train(net)
        net.load_state_dict(torch.load(PATH, weights_only=True))
    return net.eval().requires_grad_(False)


def _train(net: nn.Module) -> None:
    torch.manual_seed(common.SEED)
    real, soft = _pictures()
    opt = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(opt, PEAK, STEPS)
    change = _augmentation()
    for step in range(1, STEPS + 1):
        index = torch.randint(len(real), (BATCH,))
        chosen = torch.where(torch.rand(BATCH, 1, 1, 1) < SOFT, soft[index], real[index]).float() / 255
        # Kornia fills with black, and the pictures' ground is white.
        seen = (1 - change(1 - chosen)).clamp(0, 1)
        out = net(seen.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(out, index // len(TRAINED), label_smoothing=0.1)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        rate.step()
        if step % 50 == 0:
            print(f"[judge] step {step}, loss {loss.item():.3f}", flush=True)
    common.save_atomic(net.state_dict(), PATH)


def _augmentation() -> nn.Module:
    import kornia.augmentation as K

    return nn.Sequential(
        K.RandomHorizontalFlip(),
        K.RandomAffine(10.0, translate=(0.08, 0.08), scale=(0.8, 1.15), shear=5.0),
        K.ColorJitter(0.15, 0.2, 0.3, 0.04),
        K.RandomGaussianBlur((3, 3), (0.3, 1.5), p=0.3),
        K.RandomErasing(scale=(0.02, 0.15), p=0.3),
    )


def _pictures() -> tuple[Tensor, Tensor]:
    """uint8 [M, 3, 64, 64] twice, a subject's hands beside each other: as they are, and as the autoencoder gives them back."""
    real, net = data.pictures(_subjects(), TRAINED), pictures.autoencoder()
    with torch.no_grad():
        soft = [net.taesd_decoder(net.taesd_encoder(part.float() / 255)).clamp(0, 1) for part in real.split(64)]
    return real, torch.cat([(part * 255).round().byte() for part in soft])


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("lists", nargs="*", default=datasets.WATCHED, help="of pairs.tsv; default: the watched ones")
    for name in ask.parse_args().lists:
        rows = pairs.load(name)
        print(f"{name}: {len(rows)} real pairs, {len(pairs.subjects_of(name))} candidates", flush=True)
        for hand in (*TRAINED, UNSEEN):
            found = on_real(rows, hand)
            left, right, both = (v.float().mean() for v in (found.left, found.right, found.both))
            seen = "never seen" if hand == UNSEEN else "seen in training"
            print(f"  {hand}, {seen}: left right {left:.3f}, right right {right:.3f}, both right {both:.3f}", flush=True)


if __name__ == "__main__":
    main()
