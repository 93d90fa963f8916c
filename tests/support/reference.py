"""AFA once more, from the paper (arXiv 2405.17082): plain torch functions over state dicts, without the host and the pack.

For sizes that the golden cases do not have. tests/host/test_reference.py holds it against the golden cases first.
U-Nets: SD1.5's topology with 1x1 convolutions as projections and `heads` attention heads, as in tests/golden.
"""

import math

import torch
import torch.nn.functional as F


def sub(state, prefix):
    return {key[len(prefix) :]: tensor for key, tensor in state.items() if key.startswith(prefix)}


def linear(s, name, x):
    return F.linear(x, s[f"{name}.weight"], s.get(f"{name}.bias"))


def conv(s, name, x, stride=1):
    weight = s[f"{name}.weight"]
    return F.conv2d(x, weight, s.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)


def group_norm(s, name, x, eps):
    return F.group_norm(x, 32, s[f"{name}.weight"], s[f"{name}.bias"], eps)


def layer_norm(s, name, x):
    return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], 1e-5)


def attention(s, name, x, context, heads):
    q, k, v = linear(s, f"{name}.to_q", x), linear(s, f"{name}.to_k", context), linear(s, f"{name}.to_v", context)
    q, k, v = (t.reshape(*t.shape[:2], heads, -1).permute(0, 2, 1, 3) for t in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return linear(s, f"{name}.to_out.0", (weights @ v).permute(0, 2, 1, 3).flatten(2))


def transformer(s, x, text, heads):
    b, _, height, width = x.shape
    h = conv(s, "proj_in", group_norm(s, "norm", x, 1e-6)).flatten(2).permute(0, 2, 1)
    depth = 0
    while f"transformer_blocks.{depth}.norm1.weight" in s:
        block = sub(s, f"transformer_blocks.{depth}.")
        n = layer_norm(block, "norm1", h)
        h = h + attention(block, "attn1", n, n, heads)
        h = h + attention(block, "attn2", layer_norm(block, "norm2", h), text, heads)
        value, gate = linear(block, "ff.net.0.proj", layer_norm(block, "norm3", h)).chunk(2, -1)
        h = h + linear(block, "ff.net.2", value * 0.5 * gate * (1 + torch.erf(gate / math.sqrt(2))))
        depth += 1
    return x + conv(s, "proj_out", h.permute(0, 2, 1).reshape(b, -1, height, width))


# ------------------------------------------------------------------ an expert
def time_embedding(s, timesteps):
    width = s["time_embed.0.weight"].shape[1]
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
    angles = timesteps[:, None].float() * frequencies
    embedded = torch.cat([angles.cos(), angles.sin()], -1)
    return linear(s, "time_embed.2", F.silu(linear(s, "time_embed.0", embedded)))


def res_block(s, x, time):
    h = conv(s, "in_layers.2", F.silu(group_norm(s, "in_layers.0", x, 1e-5)))
    h = h + linear(s, "emb_layers.1", F.silu(time))[:, :, None, None]
    h = conv(s, "out_layers.3", F.silu(group_norm(s, "out_layers.0", h, 1e-5)))
    return h + (conv(s, "skip_connection", x) if "skip_connection.weight" in s else x)


def block(s, x, time, text, heads, size=None):
    """One block of the U-Net: its residual, transformer, down- or upsampling parts, recognised by their keys."""
    for part in ("0.", "1.", "2."):
        p = sub(s, part)
        if "in_layers.0.weight" in p:
            x = res_block(p, x, time)
        elif "proj_in.weight" in p:
            x = transformer(p, x, text, heads)
        elif "op.weight" in p:
            x = conv(p, "op", x, stride=2)
        elif "conv.weight" in p:
            x = conv(p, "conv", F.interpolate(x, size, mode="nearest"))
        elif "weight" in p:
            x = conv(s, part[0], x)
    return x


# ------------------------------------------------------------------ the ensemble
def shares(s, features, time, text, heads):
    """SABW: N of [B, C, H, W] to [B, N, H, W]."""
    h = conv(s, "conv_in", torch.cat(features, 1))
    r = sub(s, "res_block.")
    residual = conv(r, "conv1", F.silu(group_norm(r, "norm1", h, 1e-6)))
    residual = residual + linear(r, "time_emb_proj", F.silu(time))[:, :, None, None]
    h = h + conv(r, "conv2", F.silu(group_norm(r, "norm2", residual, 1e-6)))
    return conv(s, "conv_out", transformer(sub(s, "transformer."), h, text, heads)).softmax(1)


def predict(experts, x, timesteps, texts, heads, decide):
    """The fused prediction of U-Nets (state dicts). decide(index, features, mean time, mean text) -> shares."""
    times = [time_embedding(s, timesteps) for s in experts]
    mean_time, mean_text = sum(times) / len(times), sum(texts) / len(texts)

    def fuse(index, features):
        weights = decide(index, features, mean_time, mean_text)
        return sum(weights[:, k : k + 1] * feature for k, feature in enumerate(features))

    def each(name, inputs, size=None):
        return [
            block(sub(s, f"{name}."), h, time, text, heads, size)
            for s, h, time, text in zip(experts, inputs, times, texts, strict=True)
        ]

    n, h, skips = len(experts), x, []
    for i in range(12):
        h = fuse(i, each(f"input_blocks.{i}", [h] * n))
        skips.append(h)
    h = fuse(12, each("middle_block", [h] * n))
    for i in range(11):
        h = torch.cat([h, skips.pop()], 1)
        h = fuse(13 + i, each(f"output_blocks.{i}", [h] * n, skips[-1].shape[-2:]))
    last = each("output_blocks.11", [torch.cat([h, skips.pop()], 1)] * n)
    return fuse(
        24,
        [conv(s, "out.2", F.silu(group_norm(s, "out.0", own, 1e-5))) for s, own in zip(experts, last, strict=True)],
    )
