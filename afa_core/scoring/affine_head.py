"""The head that LAION's improved aesthetic predictor v2 and ImageReward share: an embedding to one number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

LAYERS = ("layers.0", "layers.2", "layers.4", "layers.6", "layers.7")
"""Its linear layers. Between them lies dropout only, no activation."""


@dataclass(frozen=True)
class AffineHead:
    """score = weight . embedding + bias: layers without activations between them are one affine map."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> AffineHead:
        """Raises ValueError unless the state is that of such a head."""
        expected = {f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")}
        if state.keys() != expected:
            odd = sorted(state.keys() ^ expected)
            raise ValueError(f"expected the five linear layers of its head, found a difference at {odd[0]}")
        weight, bias = torch.eye(state["layers.0.weight"].shape[1], dtype=torch.float64), torch.zeros(1).double()
        for layer in LAYERS:
            matrix = state[f"{layer}.weight"].double()
            weight, bias = matrix @ weight, matrix @ bias.expand(matrix.shape[1]) + state[f"{layer}.bias"].double()
        return cls(weight[0].float(), bias[0].float())

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Scores [B] of embeddings [B, D]; LAION's are CLIP ViT-L/14 image embeddings of length 1."""
        return embeddings.float() @ self.weight.to(embeddings.device) + self.bias.to(embeddings.device)
