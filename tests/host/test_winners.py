"""What follows few experts at a position, on U-Nets: max fusion, and the input `top_k` of Load AFA Aggregator."""

from dataclasses import replace

import pytest
import torch

from afa_core.aggregator.file import save_aggregator
from tests.support.ensembles import ensemble, random_aggregator, spy_on
from tests.support.graphs import sample
from tests.support.shop import Shop


@pytest.fixture(scope="module")
def shop(comfy_host, pack):
    return Shop(comfy_host)


def watched(model) -> list:
    """(features, what goes on, shares) of every fusion point from now on."""
    attached, seen = model.get_attachment("afa"), []

    def fusion(point, features, state):
        shares = []
        inputs = attached.fusion(point, features, replace(state, observe=lambda point, share: shares.append(share)))
        seen.append(([feature.clone() for feature in features], inputs[0].clone(), shares[0].clone()))
        return inputs

    model.set_attachments("afa", replace(attached, fusion=fusion))
    return seen


def test_max_fusion_goes_on_with_the_feature_that_varies_most(shop):
    model = ensemble(shop.host, "max fusion", shop.plain, shop.other)
    seen = watched(model)
    fused = sample(shop.wires(model))
    assert len(seen) == 2 * len(model.get_attachment("afa").points), "two steps"
    for (a, b), goes_on, shares in seen:
        second = b.var(1, keepdim=True) > a.var(1, keepdim=True)
        assert torch.equal(goes_on, torch.where(second, b, a))
        assert torch.equal(shares[:, 1:] == 1, second)
    wins = torch.cat([shares[:, 1].flatten() for _, _, shares in seen]).mean()
    assert 0.05 < wins < 0.95, "each wins somewhere"
    assert not torch.equal(fused, sample(shop.wires(shop.plain)))


def test_max_fusion_of_copies_is_the_plain_model(shop):
    copies = ensemble(shop.host, "max fusion", shop.plain, shop.copies[0])
    assert torch.equal(sample(shop.wires(copies)), sample(shop.wires(shop.plain)))


def test_top_k_follows_as_many_experts_at_a_position(shop):
    """By the node's input: how many shares are above 0, in the proportions of the whole aggregator's."""
    file = random_aggregator(shop.plain, 3)
    save_aggregator(file, shop.host.base / "models" / "afa" / "three.safetensors")
    models = [shop.plain, shop.other, shop.load("tiny_sd15_c")[0]]
    pictures, first = {}, {}
    for k in (0, 1, 2, 3):
        (loaded,) = shop.host.call("LoadAFAAggregator", aggregator_name="three.safetensors", top_k=k)
        model = ensemble(shop.host, loaded, *models)
        spy = spy_on(model)
        pictures[k] = sample(shop.wires(model).with_widgets(steps=1))
        assert all(((shares > 0).sum(1) == (k or 3)).all() for shares in spy.shares.values())
        first[k] = spy.shares[0]
    assert torch.equal(pictures[0], pictures[3])
    assert not torch.allclose(pictures[0], pictures[2], atol=1e-3)
    assert not torch.allclose(pictures[1], pictures[2], atol=1e-3)
    two = first[0].masked_fill(first[0] == first[0].amin(1, keepdim=True), 0)
    torch.testing.assert_close(first[2], two / two.sum(1, keepdim=True))
