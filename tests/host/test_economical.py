"""An aggregator whose blocks work on averages: the option of the file, and its arithmetic."""

import json
from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck

from afa_core.aggregator.config import AggregatorConfig, ConfigError
from afa_core.aggregator.sabw import averaged, spread
from tests.core.test_fusion import tiny_aggregator, tiny_state
from tests.support.aggregators import small_config
from tests.support.ensembles import ensemble, random_aggregator
from tests.support.graphs import empty_latent, sample
from tests.support.shop import Shop


def test_features_are_averaged_over_squares():
    """At the lower and the right edge over what there is of a square."""
    grid = torch.arange(15.0).view(3, 5)
    squares = [grid[y : y + 2, x : x + 2].mean() for y in (0, 2) for x in (0, 2, 4)]
    assert torch.allclose(averaged(grid[None, None], 2).flatten(), torch.stack(squares))


def test_a_square_decides_for_its_middle():
    """And halfway to the next square, both do."""
    spread_out = spread(torch.tensor([[[[0.0, 3.0]]]]), 3, torch.Size((2, 5)))
    assert spread_out.shape == (1, 1, 2, 5)
    assert torch.allclose(spread_out[0, 0, 0], torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0]), atol=1e-6)


def shares(stride, **changes):
    torch.manual_seed(0)
    aggregator, state = tiny_aggregator(**changes), tiny_state()
    features = list(torch.randn(2, 1, 5, 6, 4, dtype=torch.float64))
    return decided(aggregator, features, state, stride)


def decided(aggregator, features, state, stride=1):
    read = aggregator(state.embeddings[0].time, state.embeddings[0].text)[1]
    return aggregator.logits(1, features, read, stride).softmax(1)


def test_only_where_features_are_finer():
    faithful = shares(1)
    assert not torch.allclose(shares(1, routing_stride=2), faithful)
    assert torch.equal(shares(2, routing_stride=2), faithful)
    assert torch.equal(shares(4, routing_stride=2), faithful)
    assert torch.equal(shares(2, routing_stride=8), shares(1, routing_stride=4))


def test_the_convolutions_still_see_every_position():
    """Where the blocks add nothing, averages change nothing."""
    state, features = tiny_state(), list(torch.randn(2, 1, 5, 6, 4, dtype=torch.float64))
    found = []
    for stride in (1, 4):
        torch.manual_seed(0)
        aggregator = tiny_aggregator(routing_stride=stride)
        sabw = aggregator.aggregators["1"]
        for last in (sabw.res_block.conv2, sabw.transformer.proj_out):
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.zeros_(last.bias)
        found.append(decided(aggregator, features, state))
    assert torch.allclose(*found, atol=1e-12)
    assert found[0].std((2, 3)).min() > 0


def test_gradients():
    aggregator = tiny_aggregator(routing_stride=2)
    state = tiny_state(requires_grad=True)
    features = [torch.randn(1, 5, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert gradcheck(lambda *f: decided(aggregator, f, state), features, fast_mode=True)


def test_it_is_an_option_of_the_file():
    config = small_config(routing_stride=4)
    fields = json.loads(json.dumps(config.to_json()))
    assert AggregatorConfig.from_json(fields) == config
    del fields["routing_stride"]
    assert AggregatorConfig.from_json(fields) == small_config()
    with pytest.raises(ConfigError, match="routing_stride should be a whole number from 1 to 64, found 0"):
        small_config(routing_stride=0)


def test_it_samples_at_odd_sizes(comfy_host, pack):
    shop = Shop(comfy_host)
    aggregator = random_aggregator(shop.plain, 2, routing_stride=4)
    wires = shop.wires(ensemble(comfy_host, aggregator, shop.plain, shop.other))
    assert torch.isfinite(sample(replace(wires, latent=empty_latent(comfy_host, 1, 72, 104)))).all()
