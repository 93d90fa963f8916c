"""Patches that an expert brings along, with weights of their own, as IP-Adapters do: loaded and moved on either socket."""

import pytest
import torch

from tests.support.ensembles import certain_aggregator, ensemble
from tests.support.graphs import sample
from tests.support.shop import Shop


@pytest.fixture(scope="module")
def shop(comfy_host, pack):
    return Shop(comfy_host)


def adapter(shop):
    """A patch with a model of its own, which notes where it was moved."""
    import comfy.model_patcher

    network = torch.nn.Linear(1, 1).requires_grad_(False)
    network.weight.fill_(0.5)

    class Patch:
        moves = []
        patcher = comfy.model_patcher.ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))

        def __deepcopy__(self, memo):
            return self

        def __call__(self, h, options):
            return h * network.weight.item()

        def models(self):
            return [self.patcher]

        def to(self, device_or_dtype):
            self.moves.append(device_or_dtype)
            return self

    return network, Patch()


@pytest.mark.parametrize("place", [0, 1])
def test_a_patch_with_a_model(shop, place):
    import comfy.model_management as memory

    network, patch = adapter(shop)
    models = [shop.plain, shop.other]
    models[place] = models[place].clone()
    models[place].set_model_input_block_patch(patch)
    expected = sample(shop.wires(models[place]))
    memory.unload_all_models()
    patch.moves.clear()
    model = ensemble(shop.host, certain_aggregator(shop.plain, 2, place), *models)
    assert torch.equal(sample(shop.wires(model)), expected)
    assert network in [loaded.model.model for loaded in memory.current_loaded_models]
    assert set(patch.moves) == {torch.device("cpu"), torch.float32}
    assert not torch.equal(expected, sample(shop.wires([shop.plain, shop.other][place])))
