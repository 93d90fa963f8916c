"""The training sets as latents, encoded once: plain training pictures, and a domain's wide set for its expert."""
import torch

from . import common, data, others, vae


def _stamp(net):
    """Distinguishes encoders; the decoder may go on training without making latents stale."""
    return float(sum(p.double().abs().sum() for p in net.taesd_encoder.parameters()))


def training():
    """-> (latents [M, 4, 8, 8], captions, subjects), made once and kept in .pocket/."""
    pictures, captions, subjects = data.load("train")
    cache = common.WORK / "latents_train.pt"
    net = vae.load()
    stamp = _stamp(net)
    if cache.exists():
        saved = torch.load(cache, weights_only=True)
        if saved["stamp"] == stamp and saved["captions"] == captions:
            return saved["latents"], captions, subjects
    z = vae.encode(net, pictures.float() / 255)
    common.save_atomic({"latents": z, "stamp": stamp, "captions": captions}, cache)
    return z, captions, subjects


def wide(domain):
    """-> (latents [M, 4, 8, 8], captions): all that the domain's expert learns, in all hands; plain, mirrored, two shifts."""
    rows = data.subjects("train+spare", domain) + others.of_experts(domain)
    names = data.captions(rows, common.HANDS)
    cache = common.WORK / f"latents_wide_{domain}.pt"
    net = vae.load()
    stamp = _stamp(net)
    if cache.exists():
        saved = torch.load(cache, weights_only=True)
        if saved["stamp"] == stamp and saved["captions"] == names * 4:
            return saved["latents"], names * 4
    own = data.pictures(rows, common.HANDS)
    net = net.to(memory_format=torch.channels_last)
    variants = torch.cat([own, own.flip(-1), data.shift(own, 2, 1), data.shift(own, -1, -2)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = vae.encode(net, variants.float().contiguous(memory_format=torch.channels_last) / 255).float().contiguous()
    common.save_atomic({"latents": z, "stamp": stamp, "captions": names * 4}, cache)
    return z, names * 4


def plain(split, hands=common.HANDS_TRAINED):
    """-> (latents [M, 4, 8, 8] in float32, captions, subjects) of one split, unshifted: what evaluation uses."""
    pictures, captions, subjects = data.load(split, hands)
    return vae.encode(vae.load(), pictures.float() / 255), captions, subjects
