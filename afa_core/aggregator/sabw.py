"""The SABW aggregator: spatial-aware block-wise attention over the experts (AFA section 3.3).

State-dict keys, norms' epsilons and the order of operations are those of the authors' release.
`operations` names the layer classes: torch.nn where the aggregator is trained, the host's own where it
is loaded and offloaded by the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import AggregatorConfig


class Attention(nn.Module):
    """Multi-head attention of tokens [B, L, C] on `context` [B, M, D], or on themselves."""

    def __init__(self, width: int, context_width: int, heads: int, operations, **factory):
        super().__init__()
        self.heads = heads
        self.to_q = operations.Linear(width, width, bias=False, **factory)
        self.to_k = operations.Linear(context_width, width, bias=False, **factory)
        self.to_v = operations.Linear(context_width, width, bias=False, **factory)
        self.to_out = nn.ModuleList([operations.Linear(width, width, **factory)])

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (self.to_q(tokens), self.to_k(context), self.to_v(context))
        )
        out = F.scaled_dot_product_attention(q, k, v)  # never holds the L x L logits
        return self.to_out[0](out.transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    def __init__(self, width: int, inner: int, operations, **factory):
        super().__init__()
        self.proj = operations.Linear(width, inner * 2, **factory)

    def forward(self, tokens: Tensor) -> Tensor:
        value, gate = self.proj(tokens).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int, operations, **factory):
        super().__init__()
        # The gap at index 1 is the release's dropout, which has no weights and is never on.
        self.net = nn.ModuleDict(
            {
                "0": GEGLU(width, width * 4, operations, **factory),
                "2": operations.Linear(width * 4, width, **factory),
            }
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net["2"](self.net["0"](tokens))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, text_width: int, heads: int, operations, **factory):
        super().__init__()
        self.norm1 = operations.LayerNorm(width, eps=1e-5, **factory)
        self.attn1 = Attention(width, width, heads, operations, **factory)
        self.norm2 = operations.LayerNorm(width, eps=1e-5, **factory)
        self.attn2 = Attention(width, text_width, heads, operations, **factory)
        self.norm3 = operations.LayerNorm(width, eps=1e-5, **factory)
        self.ff = FeedForward(width, operations, **factory)

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        own = self.norm1(tokens)
        tokens = tokens + self.attn1(own, own)
        tokens = tokens + self.attn2(self.norm2(tokens), text)
        return tokens + self.ff(self.norm3(tokens))


class ResBlock(nn.Module):
    """h [B, hidden, H, W] and a time embedding [B, T] to [B, hidden, H, W]."""

    def __init__(self, hidden: int, time_width: int, operations, **factory):
        super().__init__()
        self.norm1 = operations.GroupNorm(32, hidden, eps=1e-6, **factory)  # the experts' own use 1e-5
        self.conv1 = operations.Conv2d(hidden, hidden, 3, padding=1, **factory)
        self.time_emb_proj = operations.Linear(time_width, hidden, **factory)
        self.norm2 = operations.GroupNorm(32, hidden, eps=1e-6, **factory)
        self.conv2 = operations.Conv2d(hidden, hidden, 3, padding=1, **factory)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        residual = self.conv1(F.silu(self.norm1(h)))
        residual = residual + self.time_emb_proj(F.silu(time))[:, :, None, None]
        return h + self.conv2(F.silu(self.norm2(residual)))


class SpatialTransformer(nn.Module):
    def __init__(self, hidden: int, text_width: int, heads: int, layers: int, operations, **factory):
        super().__init__()
        self.norm = operations.GroupNorm(32, hidden, eps=1e-6, **factory)
        self.proj_in = operations.Conv2d(hidden, hidden, 1, **factory)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(hidden, text_width, heads, operations, **factory) for _ in range(layers)
        )
        self.proj_out = operations.Conv2d(hidden, hidden, 1, **factory)

    def forward(self, h: Tensor, text: Tensor) -> Tensor:
        size = h.shape[-2:]
        tokens = self.proj_in(self.norm(h)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, text)
        return h + self.proj_out(tokens.transpose(1, 2).unflatten(2, size))


def averaged(feature: Tensor, side: int) -> Tensor:
    """[B, C, H, W] averaged over squares of this side."""
    return feature if side == 1 else F.avg_pool2d(feature, side, ceil_mode=True)


def spread(logits: Tensor, side: int, size: torch.Size) -> Tensor:
    """Back to the size [H, W] that was averaged: what a square says holds in its middle."""
    height, width = size
    return F.interpolate(logits, scale_factor=side, mode="bilinear")[..., :height, :width]


class SABW(nn.Module):
    """One fusion point's aggregator: features of N experts to a share of each at every position."""

    def __init__(self, config: AggregatorConfig, channels: int, operations, **factory):
        super().__init__()
        hidden = config.hidden_size
        self.ablations = config.ablations
        self.routing_stride = config.routing_stride
        self.conv_in = operations.Conv2d(channels * config.num_experts, hidden, 1, **factory)
        self.res_block = ResBlock(hidden, config.time_width, operations, **factory)
        self.transformer = SpatialTransformer(
            hidden, config.text_width, config.num_heads, config.num_layers, operations, **factory
        )
        self.conv_out = operations.Conv2d(hidden, config.num_experts, 1, bias=False, **factory)

    def forward(self, features: Sequence[Tensor | None], time: Tensor, text: Tensor, stride: int = 1) -> Tensor:
        """features: N of [B, C, H, W]; time [B, T]; text [B, L, D] -> shares [B, N, H, W], float32 at least.

        An expert that was left out has None for a feature and gets a share of 0; the mean of the others stands
        in for it. stride: size of the latent divided by H, W.
        """
        if "time" in self.ablations:
            time = torch.zeros_like(time)
        if "text" in self.ablations:
            text = torch.zeros_like(text)
        missing = [index for index, feature in enumerate(features) if feature is None]
        inputs = [feature for feature in features if feature is not None]
        if missing:
            stand_in = torch.stack(inputs).mean(0)
            inputs = [stand_in if feature is None else feature for feature in features]
        h = self.conv_in(torch.cat(inputs, dim=1))
        side = max(1, self.routing_stride // stride)
        coarse = averaged(h, side)
        logits = self.conv_out(self.transformer(self.res_block(coarse, time), text))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if side > 1:  # what the blocks add is interpolated; what they add it to is there at every position
            logits = self.conv_out(h) + spread(logits - self.conv_out(coarse), side, h.shape[-2:])
        for index in missing:  # by Python numbers: an index tensor would have to be copied to the device
            logits[:, index] = -torch.inf
        if "space" in self.ablations:
            logits = logits.mean((2, 3), keepdim=True).expand_as(logits)
        return logits.softmax(dim=1)


class Aggregator(nn.Module):
    """All SABW aggregators of an ensemble: `aggregators.{i}` belongs to fusion point i.

    An aggregator with the ablation "blocks" has only the last one (the paper's "only the last block").
    """

    def __init__(self, config: AggregatorConfig, operations=nn, **factory):
        super().__init__()
        self.config = config
        self.aggregators = nn.ModuleDict(
            {str(i): SABW(config, config.channels[i], operations, **factory) for i in config.fused_points}
        )

    def initialise(self, generator: torch.Generator | None = None) -> Aggregator:
        """Random weights for training; a zero `conv_out` makes an untrained aggregator average."""
        for name, parameter in self.named_parameters():
            if name.endswith("conv_out.weight"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                nn.init.kaiming_uniform_(parameter, a=5**0.5, generator=generator)
            else:
                (nn.init.ones_ if "norm" in name and name.endswith("weight") else nn.init.zeros_)(parameter)
        return self
