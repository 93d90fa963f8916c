"""The SABW aggregator: spatial-aware block-wise attention over the experts (AFA section 3.3).

State-dict keys, norms' epsilons and the order of operations are those of the authors' release; layout.py says how the
weights lie in memory. `operations` names the layer classes: torch.nn where the aggregator is trained, the host's own
where it is loaded and offloaded by the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import AggregatorConfig
from .layout import join_state, split_state

HEADS = "b l (heads d) -> b heads l d"


class Inputs(NamedTuple):
    """What one fusion point's aggregator reads beside the features.

    time: what the timestep adds to the hidden features, [B, hidden, 1, 1]
    text: for every layer the keys and values of the text, [2, B, heads, L, hidden / heads]
    """

    time: Tensor
    text: tuple[Tensor, ...]


class Attention(nn.Module):
    """Multi-head attention of tokens [B, L, C] on themselves or, where `crossed`, on keys and values that are given."""

    def __init__(self, width: int, heads: int, crossed: bool, operations, **factory):
        super().__init__()
        self.heads = heads
        if crossed:
            self.to_q = operations.Linear(width, width, bias=False, **factory)
        else:
            self.to_qkv = operations.Linear(width, 3 * width, bias=False, **factory)
        self.to_out = nn.ModuleList([operations.Linear(width, width, **factory)])

    def forward(self, tokens: Tensor, keys_values: Tensor | None = None) -> Tensor:
        if keys_values is None:
            q, k, v = rearrange(self.to_qkv(tokens), "b l (qkv heads d) -> qkv b heads l d", qkv=3, heads=self.heads)
        else:
            q, (k, v) = rearrange(self.to_q(tokens), HEADS, heads=self.heads), keys_values
        out = F.scaled_dot_product_attention(q, k, v)  # never holds the L x L logits
        return self.to_out[0](rearrange(out, "b heads l d -> b l (heads d)"))


class GEGLU(nn.Module):
    """Tokens [B, L, width] to [B, L, inner]."""

    def __init__(self, width: int, inner: int, operations, **factory):
        super().__init__()
        self.proj = operations.Linear(width, inner * 2, **factory)

    def forward(self, tokens: Tensor) -> Tensor:
        value, gate = self.proj(tokens).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Tokens [B, L, width] to the same shape."""

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
    """Tokens [B, L, width], and the text's keys and values [2, B, heads, M, d], to the shape of the tokens."""

    def __init__(self, width: int, heads: int, operations, **factory):
        super().__init__()
        self.norm1 = operations.LayerNorm(width, eps=1e-5, **factory)
        self.attn1 = Attention(width, heads, False, operations, **factory)
        self.norm2 = operations.LayerNorm(width, eps=1e-5, **factory)
        self.attn2 = Attention(width, heads, True, operations, **factory)
        self.norm3 = operations.LayerNorm(width, eps=1e-5, **factory)
        self.ff = FeedForward(width, operations, **factory)

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        tokens = tokens + self.attn1(self.norm1(tokens))
        tokens = tokens + self.attn2(self.norm2(tokens), text)
        return tokens + self.ff(self.norm3(tokens))


class ResBlock(nn.Module):
    """h [B, hidden, H, W] and what the timestep adds, [B, hidden, 1, 1], to [B, hidden, H, W]."""

    def __init__(self, hidden: int, operations, **factory):
        super().__init__()
        self.norm1 = operations.GroupNorm(32, hidden, eps=1e-6, **factory)  # the experts' own use 1e-5
        self.conv1 = operations.Conv2d(hidden, hidden, 3, padding=1, **factory)
        self.norm2 = operations.GroupNorm(32, hidden, eps=1e-6, **factory)
        self.conv2 = operations.Conv2d(hidden, hidden, 3, padding=1, **factory)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        residual = self.conv1(F.silu(self.norm1(h))) + time
        return h + self.conv2(F.silu(self.norm2(residual)))


class SpatialTransformer(nn.Module):
    """h [B, hidden, H, W], and the text's keys and values for every layer, to the shape of h."""

    def __init__(self, hidden: int, heads: int, layers: int, operations, **factory):
        super().__init__()
        self.norm = operations.GroupNorm(32, hidden, eps=1e-6, **factory)
        self.proj_in = operations.Conv2d(hidden, hidden, 1, **factory)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(hidden, heads, operations, **factory) for _ in range(layers)
        )
        self.proj_out = operations.Conv2d(hidden, hidden, 1, **factory)

    def forward(self, h: Tensor, text: Sequence[Tensor]) -> Tensor:
        tokens = rearrange(self.proj_in(self.norm(h)), "b c h w -> b (h w) c")
        for block, keys_values in zip(self.transformer_blocks, text, strict=True):
            tokens = block(tokens, keys_values)
        return h + self.proj_out(rearrange(tokens, "b (h w) c -> b c h w", h=h.shape[-2]))


def averaged(feature: Tensor, side: int) -> Tensor:
    """[B, C, H, W] averaged over squares of this side."""
    return feature if side == 1 else F.avg_pool2d(feature, side, ceil_mode=True)


def spread(logits: Tensor, side: int, size: torch.Size) -> Tensor:
    """Back to the size [H, W] that was averaged: what a square says holds in its middle."""
    height, width = size
    return F.interpolate(logits, scale_factor=side, mode="bilinear")[..., :height, :width]


def normed(feature: Tensor) -> Tensor:
    """[B, C, H, W] with mean 0 and variance 1 over the channels of every position."""
    return rearrange(F.layer_norm(rearrange(feature, "b c h w -> b h w c"), feature.shape[1:2]), "b h w c -> b c h w")


class SABW(nn.Module):
    """One fusion point's aggregator: features of N experts to logits of each at every position."""

    def __init__(self, config: AggregatorConfig, index: int, operations, **factory):
        super().__init__()
        hidden, channels = config.hidden_size, config.channels[index]
        self.without_space = "space" in config.ablations
        self.routing_stride = config.routing_stride
        self.tokens = config.tokens
        self.conv_in = operations.Conv2d(channels * config.num_experts, hidden, 1, **factory)
        self.res_block = ResBlock(hidden, operations, **factory)
        self.transformer = SpatialTransformer(hidden, config.num_heads, config.num_layers, operations, **factory)
        self.conv_out = operations.Conv2d(hidden, config.num_experts, 1, bias=False, **factory)
        biased = index in config.biased_points
        self.identity_bias = nn.Parameter(torch.zeros((), **factory)) if biased else None

    def forward(self, features: Sequence[Tensor | None], inputs: Inputs, stride: int = 1) -> Tensor:
        """features: N of [B, C, H, W] -> logits [B, N, H, W], whose softmax over the experts are their shares.

        The mean of the others stands in for an expert that was left out, which has None for a feature.
        stride: size of the latent divided by H, W.
        """
        there = [feature for feature in features if feature is not None]
        if len(there) < len(features):
            stand_in = torch.stack(there).mean(0)
            there = [stand_in if feature is None else feature for feature in features]
        if self.tokens:
            there = [normed(feature) for feature in there]
        # What runs through the blocks of some transformers is too large for half precision, and is in float32 there alone.
        h = self.conv_in(torch.cat(there, dim=1).to(self.conv_in.weight.dtype))
        side = max(1, self.routing_stride // stride)
        coarse = averaged(h, side)
        logits = self.conv_out(self.transformer(self.res_block(coarse, inputs.time), inputs.text))
        if side > 1:  # what the blocks add is interpolated; what they add it to is there at every position
            logits = self.conv_out(h) + spread(logits - self.conv_out(coarse), side, h.shape[-2:])
        if self.without_space:
            logits = logits.mean((2, 3), keepdim=True).expand_as(logits)
        return logits


class Aggregator(nn.Module):
    """All SABW aggregators of an ensemble: `aggregators.{i}` belongs to fusion point i.

    An aggregator with the ablation "blocks" has only the last one (the paper's "only the last block").
    """

    def __init__(self, config: AggregatorConfig, operations=nn, **factory):
        super().__init__()
        self.config = config
        points, hidden = len(config.fused_points), config.hidden_size
        self.time = operations.Linear(config.time_width, points * hidden, **factory)
        if config.tokens:
            self.text_in = operations.Linear(config.text_width, hidden, bias=False, **factory)
        self.text = operations.Linear(
            config.point_text_width, points * config.num_layers * 2 * hidden, bias=False, **factory
        )
        self.aggregators = nn.ModuleDict({str(i): SABW(config, i, operations, **factory) for i in config.fused_points})
        self.register_state_dict_post_hook(split_state)
        self.register_load_state_dict_pre_hook(join_state)

    def forward(self, time: Tensor, text: Tensor) -> dict[int, Inputs]:
        """What the aggregators read beside features, by index of the fusion point; time [B, T], text [B, L, D]."""
        time, text = time.to(self.time.weight.dtype), text.to(self.time.weight.dtype)
        if "time" in self.config.ablations:
            time = torch.zeros_like(time)
        if "text" in self.config.ablations:
            text = torch.zeros_like(text)
        if self.config.tokens:
            text = self.text_in(text)
        fused, layers, heads = self.config.fused_points, self.config.num_layers, self.config.num_heads
        times = rearrange(self.time(F.silu(time)), "b (point c) -> point b c 1 1", point=len(fused))
        texts = rearrange(
            self.text(text), "b l (point layer kv heads d) -> point layer kv b heads l d",
            point=len(fused), layer=layers, kv=2, heads=heads,
        )  # fmt: skip
        # Unbound, not indexed: the gradient of an index is as large as all points together.
        each = zip(fused, times.unbind(), texts.unbind(), strict=True)
        return {i: Inputs(of_time, tuple(of_text.unbind())) for i, of_time, of_text in each}

    def point(self, index: int) -> SABW:
        """The aggregator of fusion point `index`."""
        return cast(SABW, self.aggregators[str(index)])

    def logits(self, index: int, features: Sequence[Tensor | None], inputs: Inputs, stride: int) -> Tensor:
        """Of fusion point `index`, [B, N, H, W]; as of SABW."""
        return self.point(index)(features, inputs, stride)

    def identity_bias(self, index: int) -> Tensor | None:
        """Of fusion point `index`, a scalar."""
        return self.point(index).identity_bias

    def initialise(self, generator: torch.Generator | None = None) -> Aggregator:
        """Random weights for training; a zero `conv_out` makes an untrained aggregator average."""
        state = {}
        for key, shape in self.config.shapes():
            ones = "norm" in key and key.endswith("weight")
            state[key] = torch.full(shape, float(ones), dtype=self.time.weight.dtype)
            if len(shape) > 1 and not key.endswith("conv_out.weight"):
                nn.init.kaiming_uniform_(state[key], a=5**0.5, generator=generator)
        self.load_state_dict(state)
        return self
