"""ImageReward's network (Xu et al., NeurIPS 2023): BLIP's picture encoder, and a text encoder that looks at the picture.

Modules are named as in the authors' file, so that it loads as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
"""Of the raw reward over the authors' data; scores are standardised by them."""
TOKENS = 35
HEAD = 64
"""Width of an attention head, in both encoders."""


class PictureBlock(nn.Module):
    def __init__(self, width: int, inner: int, operations):
        super().__init__()
        self.norm1 = operations.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": operations.Linear(width, 3 * width), "proj": operations.Linear(width, width)})
        self.norm2 = operations.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": operations.Linear(width, inner), "fc2": operations.Linear(inner, width)})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1)
        x = x + self.attn["proj"](_attention(q, k, v))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class PictureEncoder(nn.Module):
    """A vision transformer: pixels [B, 3, S, S] to tokens [B, 1 + patches, W]."""

    def __init__(self, width: int, layers: int, inner: int, patch: int, positions: int, operations):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, positions, width))
        self.patch_embed = nn.ModuleDict({"proj": operations.Conv2d(3, width, patch, patch)})
        self.blocks = nn.ModuleList(PictureBlock(width, inner, operations) for _ in range(layers))
        self.norm = operations.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = rearrange(self.patch_embed["proj"](pixels), "b w y x -> b (y x) w")
        tokens = torch.cat([self.cls_token.to(patches).expand(len(patches), -1, -1), patches], dim=1)
        tokens = tokens + self.pos_embed.to(patches)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class Residual(nn.Module):
    """BERT's way out of a sub-layer: LayerNorm(x + W y)."""

    def __init__(self, inner: int, width: int, operations):
        super().__init__()
        self.dense = operations.Linear(inner, width)
        self.LayerNorm = operations.LayerNorm(width, eps=1e-12)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(x + self.dense(y))


class TextAttention(nn.Module):
    """Attention to a context [B, L, C], of the text itself or of the picture."""

    def __init__(self, width: int, context: int, operations):
        super().__init__()
        widths = {"query": width, "key": context, "value": context}
        self.self = nn.ModuleDict({name: operations.Linear(size, width) for name, size in widths.items()})
        self.output = Residual(width, width, operations)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.self["query"](x), self.self["key"](context), self.self["value"](context)
        return self.output(_attention(q, k, v, mask), x)


class TextBlock(nn.Module):
    def __init__(self, width: int, inner: int, picture: int, operations):
        super().__init__()
        self.attention = TextAttention(width, width, operations)
        self.crossattention = TextAttention(width, picture, operations)
        self.intermediate = nn.ModuleDict({"dense": operations.Linear(width, inner)})
        self.output = Residual(inner, width, operations)

    def forward(self, x: Tensor, picture: Tensor, mask: Tensor) -> Tensor:
        x = self.crossattention(self.attention(x, x, mask), picture)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class TextEncoder(nn.Module):
    """BERT without segments, every layer of which also attends to the picture's tokens."""

    def __init__(self, words: int, positions: int, width: int, layers: int, inner: int, picture: int, operations):
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": operations.Embedding(words, width),
                "position_embeddings": operations.Embedding(positions, width),
                "LayerNorm": operations.LayerNorm(width, eps=1e-12),
            }
        )
        blocks = nn.ModuleList(TextBlock(width, inner, picture, operations) for _ in range(layers))
        self.encoder = nn.ModuleDict({"layer": blocks})

    def forward(self, tokens: Tensor, mask: Tensor, picture: Tensor) -> Tensor:
        """Tokens [B, L] with mask [B, L] (1 where there is a word) and a picture [B, P, C] to states [B, L, W]."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embeddings["word_embeddings"](tokens) + self.embeddings["position_embeddings"](places)
        x = self.embeddings["LayerNorm"](x.to(picture.dtype))
        for block in self.encoder["layer"].children():
            x = block(x, picture, mask[:, None, None, :].bool())
        return x


class ImageReward(nn.Module):
    """Pixels [B, 3, 224, 224], normalised as for CLIP, and tokens [B, 35] to the text's first state [B, W]."""

    def __init__(self, state: Mapping[str, Tensor], operations):
        """Sizes are read off `state`, the authors' file. Raises KeyError or RuntimeError where it is another's."""
        super().__init__()
        sizes = {key: tensor.shape for key, tensor in state.items()}
        picture, text = "blip.visual_encoder.", "blip.text_encoder."
        width, _, patch, _ = sizes[f"{picture}patch_embed.proj.weight"]
        inner = sizes[f"{picture}blocks.0.mlp.fc1.weight"][0]
        positions = sizes[f"{picture}pos_embed"][1]
        words, text_width = sizes[f"{text}embeddings.word_embeddings.weight"]
        places = sizes[f"{text}embeddings.position_embeddings.weight"][0]
        text_inner = sizes[f"{text}encoder.layer.0.intermediate.dense.weight"][0]
        layers = [count_layers(state, prefix) for prefix in (f"{picture}blocks.", f"{text}encoder.layer.")]
        self.blip = nn.ModuleDict(
            {
                "visual_encoder": PictureEncoder(width, layers[0], inner, patch, positions, operations),
                "text_encoder": TextEncoder(words, places, text_width, layers[1], text_inner, width, operations),
            }
        )
        missing = self.load_state_dict(state, strict=False, assign=True).missing_keys  # BLIP's other heads are not used
        if missing:
            raise KeyError(missing[0])
        self.requires_grad_(False)

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        picture = self.blip["visual_encoder"](pixels)
        return self.blip["text_encoder"](tokens, mask, picture)[:, 0]


def reward(raw: Tensor) -> Tensor:
    """The score that is reported, of the head's number."""
    return (raw - MEAN) / DEVIATION


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    q, k, v = (rearrange(x, "b l (heads d) -> b heads l d", d=HEAD) for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v, mask), "b heads l d -> b l (heads d)")


def count_layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many layers a network has whose keys are prefix, number, ...; 0 without any."""
    return 1 + max((int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)), default=-1)
