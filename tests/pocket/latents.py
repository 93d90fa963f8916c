"""The training pictures of the base as latents, encoded once."""
import torch

from . import common, data, vae


def _stamp(net):
    """Distinguishes encoders; the decoder may go on training without making latents stale."""
    return float(sum(p.double().abs().sum() for p in net.taesd_encoder.parameters()))


def training():
    """-> (latents [M, 4, 8, 8], captions), made once and kept in .pocket/."""
    pictures, captions, _ = data.load("train")
    cache = common.WORK / "latents_train.pt"
    net = vae.load()
    stamp = _stamp(net)
    if cache.exists():
        saved = torch.load(cache, weights_only=True)
        if saved["stamp"] == stamp and saved["captions"] == captions:
            return saved["latents"], captions
    z = vae.encode(net, pictures.float() / 255)
    common.save_atomic({"latents": z, "stamp": stamp, "captions": captions}, cache)
    return z, captions
