"""Pictures, captions and domains.

A picture is cropped to what is not transparent, resized with premultiplied alpha (no dark fringes), centred on white,
and kept as uint8 [3, 64, 64]. Its caption is "<hand>, <name>, <kind>": twemoji, mango, food fruit.
"""
import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from . import common, packages

MARGIN = 2  # pixels of white around the longer side


@dataclass(frozen=True)
class Subject:
    code: str
    name: str
    domain: str
    split: str
    kind: str


def subjects(split=None, domain=None):
    """All subjects of a split ("train", "spare", "held_out", or several joined by "+") and of a domain."""
    lines = (common.HERE / "subjects.tsv").read_text(encoding="ascii").splitlines()
    held = {line.split("\t")[1] for line in (common.HERE / "held_out.txt").read_text(encoding="ascii").splitlines()}
    rows = [Subject(*line.split("\t")) for line in lines]
    if {s.code for s in rows if s.split == "held_out"} != held:
        raise ValueError("subjects.tsv and held_out.txt disagree about which subjects are held out")
    return [s for s in rows if (split is None or s.split in split.split("+")) and (domain is None or s.domain == domain)]


def frame(blob, size=common.SIZE, margin=MARGIN):
    """Encoded picture -> uint8 array [size, size, 3] on white."""
    image = Image.open(io.BytesIO(blob)).convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox())
    inner = size - 2 * margin
    scale = inner / max(image.size)
    shape = tuple(max(1, round(s * scale)) for s in image.size)
    x = np.asarray(image, dtype=np.float32) / 255
    x = np.concatenate([x[..., :3] * x[..., 3:], x[..., 3:]], axis=-1)
    planes = [np.asarray(Image.fromarray(x[..., c]).resize(shape, Image.Resampling.LANCZOS)) for c in range(4)]
    x = np.clip(np.stack(planes, axis=-1), 0, 1)
    out = np.ones((size, size, 3), dtype=np.float32)
    top, left = (size - shape[1]) // 2, (size - shape[0]) // 2
    box = out[top:top + shape[1], left:left + shape[0]]
    box[...] = x[..., :3] + (1 - x[..., 3:]) * box
    return np.round(np.clip(out, 0, 1) * 255).astype(np.uint8)


def load(split, hands=common.HANDS_TRAINED):
    """-> (uint8 [M, 3, 64, 64], captions, [Subject] of each picture), every subject in each of the hands."""
    cache = common.WORK / f"pictures_{split}_{'_'.join(hands)}.pt"
    rows = subjects(split)
    each = [s for s in rows for _ in hands]
    if cache.exists():
        saved = torch.load(cache)
        if saved["captions"] == captions(rows, hands):
            return saved["pictures"], saved["captions"], each
    found = {"pictures": pictures(rows, hands), "captions": captions(rows, hands)}
    common.save_atomic(found, cache)
    return found["pictures"], found["captions"], each


def captions(rows, hands):
    return [f"{hand}, {s.name}, {s.kind}" for s in rows for hand in hands]


def pictures(rows, hands):
    """The subjects in each of the hands -> uint8 [M, 3, 64, 64], in the order of `captions`."""
    stack = [frame(packages.members(hand)[packages.bare(s.code)]) for s in rows for hand in hands]
    return torch.from_numpy(np.stack(stack)).permute(0, 3, 1, 2).contiguous()


def shift(x, dx, dy):
    """Move pictures [B, C, H, W] by whole pixels, white coming in (wraps nothing)."""
    pad = max(abs(dx), abs(dy))
    if not pad:
        return x
    wide = torch.nn.functional.pad(x, (pad,) * 4, value=255 if x.dtype == torch.uint8 else 1.0)
    return wide[..., pad - dy:pad - dy + x.shape[-2], pad - dx:pad - dx + x.shape[-1]]
