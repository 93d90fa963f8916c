"""How experts fit in git: the base U-Net in float16, each expert as 8-bit differences from it.

A fine-tune moves weights little, so one byte a value with one scale a row loses about a thousandth of the move; vectors
(norms, biases) are kept in float16 as they are.
"""
import torch


def pack(expert, base):
    """State dicts (float32, and the base as it is committed) -> tensors to save."""
    out = {}
    for key, value in expert.items():
        if value.ndim < 2:
            out[key] = value.half()
            continue
        delta = (value.float() - base[key].float()).flatten(1)
        scale = delta.abs().amax(1).clamp_min(1e-12) / 127
        out[key] = torch.round(delta / scale[:, None]).to(torch.int8).view(value.shape)
        out[key + "/scale"] = scale
    return out


def unpack(packed, base):
    """-> the expert's state dict in float16."""
    out = {}
    for key, value in packed.items():
        if key.endswith("/scale"):
            continue
        if value.dtype == torch.int8:
            scale = packed[key + "/scale"].view(-1, *[1] * (value.ndim - 1))
            value = base[key].float() + value.float() * scale
        out[key] = value.half()
    return out
