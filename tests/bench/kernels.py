"""Other ways to compute an aggregator's self-attention, and the aggregator compiled. Needs a C++ compiler."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from .measure import interleaved, ratios, spread
from .models import PUBLISHED

HEADS, TEXT, TIME, CHANNELS, EXPERTS = 8, 768, 1280, 320, 3
WIDTH = PUBLISHED["hidden_size"] // HEADS
ROUNDS = 5
BLOCK = 256 * 512
"""Values that stay in the cache, as they do in PyTorch's kernel."""


@torch.inference_mode()
def bench_kernels() -> list[str]:
    lines = ["| | 32x32 | 64x64 |", "|---|---|---|"]
    found = [_attention(side) for side in (32, 64)]
    lines += [f"| {name} | {found[0][name]} | {found[1][name]} |" for name in list(found[0])[1:]]
    compiled = [_compiled(side) for side in (32, 64)]
    return [
        f"At the finest fusion point: 2 pictures, {HEADS} heads of {WIDTH} channels, bf16. Time / that of PyTorch's kernel, which the pack calls:",
        "",
        *lines,
        "",
        f"A whole aggregator of that point under torch.compile / as it is: {compiled[0]} at 32x32, {compiled[1]} at 64x64.",
    ]


def _attention(side: int) -> dict[str, str]:
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, HEADS, side**2, WIDTH, generator=random).bfloat16() for _ in range(3))
    flex = torch.compile(flex_attention, dynamic=False)
    values = torch.randn(BLOCK, generator=random)
    found = torch.empty_like(values)
    ways = {
        "PyTorch's kernel": partial(F.scaled_dot_product_attention, q, k, v),
        "the same in float32": lambda: F.scaled_dot_product_attention(q.float(), k.float(), v.float()).bfloat16(),
        "products and softmax one after the other": partial(_plain, q, k, v),
        "flex_attention, compiled": partial(flex, q, k, v),
        "the exponentials of its softmax alone": lambda: [torch.exp(values, out=found) for _ in range(2 * HEADS * side**4 // BLOCK)],
    }  # fmt: skip
    return _beside_the_first(ways, 2)


def _plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) * WIDTH**-0.5).softmax(-1) @ v


def _compiled(side: int) -> str:
    from afa_core.aggregator.config import AggregatorConfig
    from afa_core.aggregator.sabw import Aggregator

    config = AggregatorConfig("one point", (CHANNELS, CHANNELS), EXPERTS, text_width=TEXT, time_width=TIME, **PUBLISHED)
    aggregator = Aggregator(config, dtype=torch.bfloat16).initialise()
    sabw, inputs = aggregator.point(0), aggregator(torch.randn(2, TIME).bfloat16(), torch.randn(2, 77, TEXT).bfloat16())[0]
    features = [torch.randn(2, CHANNELS, side, side).bfloat16() for _ in range(EXPERTS)]
    given = features, inputs
    ways = {"as it is": partial(sabw, *given), "compiled": partial(torch.compile(sabw, dynamic=False), *given)}
    return _beside_the_first(ways, 3)["compiled"]


def _beside_the_first(ways: dict[str, Callable[[], object]], digits: int) -> dict[str, str]:
    """Of every way the time in parts of the first one's, once all have been compiled and warmed up."""
    for way in ways.values():
        way()
    seconds = interleaved(ways, ROUNDS)
    first = next(iter(seconds.values()))
    return {name: spread(ratios(own, first), digits) for name, own in seconds.items()}
