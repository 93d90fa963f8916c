"""Experts that compute in different dtypes, as files of different precision do."""

import pytest
import torch

from tests.support import transformers
from tests.support.ensembles import certain_aggregator, ensemble, random_aggregator
from tests.support.graphs import sample
from tests.support.shop import Shop


@pytest.fixture(scope="module")
def shop(comfy_host, pack):
    shop = Shop(comfy_host)
    shop.half = shop.other.clone()
    shop.half.set_model_compute_dtype(torch.bfloat16)
    return shop


@pytest.mark.parametrize("method", ["block average", "noise average", "last block average", "max fusion", "trained"])
@pytest.mark.parametrize("first", ["float32", "bfloat16"])
def test_every_fusion_takes_experts_of_different_dtypes(shop, method, first):
    models = [shop.plain, shop.half] if first == "float32" else [shop.half, shop.plain]
    fusion = random_aggregator(shop.plain, 2) if method == "trained" else method
    mixed = sample(shop.wires(ensemble(shop.host, fusion, *models)))
    equal = [shop.plain, shop.other] if first == "float32" else [shop.other, shop.plain]
    expected = sample(shop.wires(ensemble(shop.host, fusion, *equal)))
    assert torch.isfinite(mixed).all() and not torch.equal(mixed, expected)
    if method != "max fusion":  # which jumps from one expert to the other
        assert (mixed - expected).abs().mean() < 0.1 * expected.abs().mean()


def test_kept_maps_too(shop):
    model = ensemble(shop.host, random_aggregator(shop.plain, 2), shop.plain, shop.half, decide_every=2)
    assert torch.isfinite(sample(shop.wires(model))).all()


def test_the_first_expert_of_another_dtype_is_followed_to_the_bit(shop):
    """The aggregator is built in the dtype that a node has set, and so are the texts and features cast."""
    model = ensemble(shop.host, certain_aggregator(shop.plain, 2, 0), shop.half, shop.plain)
    assert torch.equal(sample(shop.wires(model)), sample(shop.wires(shop.half)))
    (aggregator,) = model.get_additional_models()[-1:]
    assert next(aggregator.model.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["cosmos", "anima"])
def test_transformers_in_float16(comfy_host, pack, family):
    """Newer hosts keep in float32 what runs through the blocks of these."""
    cases = [transformers.load(comfy_host, f"tiny_{family}_{letter}") for letter in "ab"]
    model, other = (case.patcher.clone() for case in cases)
    for patcher in (model, other):
        patcher.set_model_compute_dtype(torch.float16)
    both = ensemble(comfy_host, random_aggregator(model, 2), model, other)
    assert torch.isfinite(transformers.sample(comfy_host, both, cases[0])).all()
    for chosen, expected in enumerate([model, other]):
        following = ensemble(comfy_host, certain_aggregator(model, 2, chosen), model, other)
        found = transformers.sample(comfy_host, following, cases[0])
        assert torch.equal(found, transformers.sample(comfy_host, expected, cases[0]))
