"""An ensemble whose experts have attention maps of their own, sampled by the real host."""

from dataclasses import replace

import pytest
import torch

from tests.host.test_selection import blocks_run, with_table
from tests.support.ensembles import ensemble, random_aggregator
from tests.support.graphs import sample
from tests.support.shop import Shop


@pytest.fixture(scope="module")
def shop(comfy_host, pack):
    return Shop(comfy_host)


def biased(shop, bias: float):
    """A random aggregator with this identity bias everywhere."""
    file = random_aggregator(shop.plain, 2, identity_bias=True)
    biases = {key: torch.full_like(t, bias) for key, t in file.state.items() if key.endswith("identity_bias")}
    return replace(file, state={**file.state, **biases})


def test_a_bias_of_0_is_afa_to_the_bit(shop):
    found = [
        sample(shop.wires(ensemble(shop.host, file, shop.plain, shop.other)))
        for file in (biased(shop, 0.0), random_aggregator(shop.plain, 2), biased(shop, 2.0))
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_twins_are_one(shop):
    twins = ensemble(shop.host, biased(shop, 2.0), *shop.copies)
    assert torch.equal(sample(shop.wires(twins)), sample(shop.wires(shop.plain)))


@pytest.mark.parametrize("chosen", [0, 1])
def test_experts_are_left_out_by_their_weight_at_the_prediction(shop, chosen):
    """Of every block, whatever the table says of the points inside."""
    models, last = [shop.plain, shop.other], len(biased(shop, 2.0).config.channels) - 1
    rows = [[0.1, 0.9], [0.9, 0.1]]
    file = with_table(biased(shop, 2.0), lambda index: rows[(index == last) == (chosen == 0)])
    wires = shop.wires(ensemble(shop.host, file, *models, skip_below=0.5))
    found = []
    assert blocks_run(models[1 - chosen], lambda: found.append(sample(wires))) == 0
    assert torch.equal(found[0], sample(shop.wires(models[chosen])))
