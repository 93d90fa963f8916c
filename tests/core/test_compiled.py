"""An aggregator under torch.compile does what it does without, and is compiled once for each shape of a fusion point."""

from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from afa_core.aggregator.config import AggregatorConfig
from afa_core.aggregator.sabw import Aggregator
from afa_core.fusion import compiled
from afa_core.fusion.compiled import CompiledAttend, check_compiler
from afa_core.fusion.fusion import FusionError
from afa_core.fusion.points import FusionPoint
from afa_core.fusion.sabw_fusion import attend

CALLS = [(2, 8, 77), (2, 12, 77), (4, 8, 154), (3, 10, 231)]
"""Batch, side of the latent, length of the text."""


@pytest.fixture
def counted():
    torch._dynamo.reset()
    counters.clear()
    return lambda: counters["stats"]["unique_graphs"]


def compare(points: list[tuple[int, int]], calls=CALLS, top_k=0, **sizes) -> float:
    """The largest difference of compiled and plain features and shares, over all points [(channels, stride)]."""
    channels = tuple(c for c, _ in points)
    config = AggregatorConfig("toy", channels, 2, text_width=16, time_width=16, hidden_size=64, num_layers=1, num_heads=2, **sizes)
    aggregator = Aggregator(config).initialise(torch.Generator().manual_seed(0))
    for sabw in aggregator.aggregators.values():
        torch.nn.init.normal_(sabw.conv_out.weight, std=0.3)
    both, worst = CompiledAttend(), 0.0
    for batch, side, length in calls:
        inputs = aggregator(torch.randn(batch, 16), torch.randn(batch, length, 16))
        for index, (width, stride) in enumerate(points):
            features = [torch.randn(batch, width, side // stride, side // stride + 2) for _ in range(2)]
            given = aggregator, FusionPoint(index, f"{index}", width, stride), features, inputs[index], top_k
            pairs = [*zip(both(*given), attend(*given), strict=True)]
            assert all(one.isfinite().all() for one, _ in pairs)
            worst = max(worst, *((one - other).abs().max().item() for one, other in pairs))
    return worst


@torch.inference_mode()
def test_the_compiled_aggregator_computes_the_same(counted):
    assert compare([(8, 1), (8, 1)], CALLS[:2], routing_stride=2) < 2e-5
    assert counted() == 1


@torch.inference_mode()
def test_there_is_one_graph_a_shape_whatever_the_size(counted, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    points = [(8 * width, stride) for width in (1, 2, 3) for stride in (1, 2, 4)]
    assert compare([*points, points[0]], CALLS[:3]) == 0
    assert counted() == len(points) > 8


@torch.inference_mode()
def test_the_compiled_aggregator_follows_the_k_largest(counted, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    assert compare([(8, 1), (8, 1)], CALLS[:1], top_k=1) == 0
    assert counted() == 1


@torch.inference_mode()
def test_a_point_without_an_expert_is_not_compiled(monkeypatch):
    monkeypatch.setattr(compiled, "_graph", None)
    config = AggregatorConfig("toy", (8, 8), 3, text_width=16, time_width=16, hidden_size=64, num_layers=1, num_heads=2)
    aggregator = Aggregator(config).initialise()
    inputs = aggregator(torch.randn(1, 16), torch.randn(1, 77, 16))[0]
    features = [torch.randn(1, 8, 4, 4), None, torch.randn(1, 8, 4, 4)]
    fused, shares = CompiledAttend()(aggregator, FusionPoint(0, "0", 8, 1), features, inputs)
    assert fused.shape == (1, 8, 4, 4) and shares.shape == (1, 2, 4, 4)


def test_a_machine_without_a_compiler_is_named(counted):
    check_compiler.cache_clear()
    with inductor.patch({"cpp.cxx": (None, "/nowhere/c++"), "force_disable_caches": True}), pytest.raises(FusionError) as error:
        check_compiler(torch.device("cpu"))
    assert "No working C++ compiler" in str(error.value) and "set compile to false" in str(error.value)
    assert str(error.value).count("\n") == 0
