"""How an aggregator's weights lie in memory: what one input is multiplied by lies together, so that one kernel does it.

Files and state dicts keep the keys of the authors' release. There, queries, keys and values are matrices of their own,
and every fusion point has its own projections of the timestep and the text, which are the same inputs for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .config import AggregatorConfig


def joined(config: AggregatorConfig) -> Iterator[tuple[str, list[str]]]:
    """(key in memory, keys of the release) of all tensors that lie together, one below the other and of one shape."""
    blocks = [
        f"aggregators.{index}.transformer.transformer_blocks.{layer}."
        for index in config.fused_points
        for layer in range(config.num_layers)
    ]
    for part in ("weight", "bias"):
        yield f"time.{part}", [f"aggregators.{i}.res_block.time_emb_proj.{part}" for i in config.fused_points]
    yield "text.weight", [f"{block}attn2.{name}.weight" for block in blocks for name in ("to_k", "to_v")]
    for block in blocks:
        yield f"{block}attn1.to_qkv.weight", [f"{block}attn1.{name}.weight" for name in ("to_q", "to_k", "to_v")]


def split_state(module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Gives a state dict the release's keys, in place. A hook of Module.state_dict."""
    for key, parts in joined(module.config):
        chunks = state.pop(prefix + key).chunk(len(parts))
        state.update(zip((prefix + part for part in parts), chunks, strict=True))


def join_state(module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Takes a state dict of the release's keys apart as they lie in memory, in place. A hook of Module.load_state_dict."""
    for key, parts in joined(module.config):
        if all(prefix + part in state for part in parts):  # what is missing is reported by load_state_dict itself
            state[prefix + key] = torch.cat([state.pop(prefix + part) for part in parts])
