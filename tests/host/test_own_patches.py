"""Patches that have something of their own: weights, as IP-Adapters do, or a memory of the blocks before."""

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


class Remembering:
    """As the host's ControlNet for Z-Image: it keeps something from block to block of one forward pass."""

    passes = 0

    def __deepcopy__(self, memo):
        return self

    def __call__(self, h, options):
        if options["block"] == ("input", 0):
            self.passes, self.kept = self.passes + 1, 0.0
        self.kept = 0.5 * self.kept + h.mean().item()
        return h + self.kept

    def follow(self, h, skip, options):
        return h - self.kept, skip


class Following:
    """As the host's LLLite for Anima: it looks at another patch."""

    def __init__(self, leader):
        self.leader = leader

    def __call__(self, h, skip, options):
        return h * (1 + self.leader.kept), skip


@pytest.mark.parametrize("behind", [True, False], ids=["on the ensemble", "on both checkpoints"])
@pytest.mark.parametrize("chosen", [0, 1])
def test_experts_do_not_see_what_a_patch_remembers_of_another(shop, chosen, behind):
    patch = Remembering()

    def patched(model):
        model = model.clone()
        model.set_model_input_block_patch(patch)
        model.set_model_output_block_patch(patch.follow)
        model.set_model_output_block_patch(Following(patch))
        return model

    models = [shop.plain, shop.other]
    expected = sample(shop.wires(patched(models[chosen])))
    passes, patch.passes = patch.passes, 0
    aggregator = certain_aggregator(shop.plain, 2, chosen)
    if behind:
        model = patched(ensemble(shop.host, aggregator, *models))
    else:
        model = ensemble(shop.host, aggregator, *map(patched, models))
    assert torch.equal(sample(shop.wires(model)), expected)
    assert patch.passes == passes > 1  # as of a plain model, from step to step
    assert not torch.equal(expected, sample(shop.wires(models[chosen])))


def test_a_patch_of_the_second_expert_alone_remembers_from_step_to_step(shop):
    patch = Remembering()
    other = shop.other.clone()
    other.set_model_input_block_patch(patch)
    expected = sample(shop.wires(other))
    passes, patch.passes = patch.passes, 0
    model = ensemble(shop.host, certain_aggregator(shop.plain, 2, 1), shop.plain, other)
    assert torch.equal(sample(shop.wires(model)), expected)
    assert patch.passes == passes > 1
