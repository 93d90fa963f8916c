"""On a host that pages weights in from their files: experts that are trained through, or whose weights are scheduled,
are read without that."""

import copy
import uuid
from dataclasses import replace

import pytest
import torch

from tests.support.ensembles import ensemble, random_aggregator
from tests.support.graphs import hooked_lora, sample
from tests.support.shop import Shop


def numbered(*patchers) -> list:
    from afa_core.host.experts.experts import Expert

    return [Expert(patcher, f"model_{i}") for i, patcher in enumerate(patchers, start=1)]


def test_experts_are_read_again_and_clones_go_on_sharing_one_network(checkpoint, pack, monkeypatch):
    from afa_core.host.experts.networks import unpaged

    model, other = checkpoint("tiny_sd15_a")[0], checkpoint("tiny_sd15_b")[0]
    if not hasattr(model, "is_dynamic"):
        pytest.skip("this host pages no weights")
    monkeypatch.setattr(type(model), "is_dynamic", lambda patcher: True)  # as it is with an NVIDIA GPU
    experts = numbered(model, other, model.clone())
    networks = [expert.patcher.model for expert in unpaged(experts)]
    assert networks[0] is networks[2] and len({id(n) for n in (*networks, model.model, other.model)}) == 4
    for found, expert in zip(networks, experts, strict=True):
        pairs = zip(found.parameters(), expert.patcher.model.parameters(), strict=True)
        assert all(torch.equal(one, another) for one, another in pairs)


def test_other_experts_stay_as_they_are(checkpoint, pack):
    from afa_core.host.experts.networks import unpaged

    experts = numbered(checkpoint("tiny_sd15_a")[0])
    assert unpaged(experts) == experts


@pytest.fixture
def paged(comfy_host):
    """paged(patcher) -> the patcher, from now on as with an NVIDIA GPU: only its delegate takes scheduled LoRAs."""
    from comfy.model_patcher import ModelPatcher

    class Delegate(ModelPatcher):
        def is_dynamic(self):
            return False

        def clone(self, *args, **kwargs):
            n = super().clone(*args, **kwargs)
            n.clone_base_uuid = self.clone_base_uuid
            return n

    class Paged(Delegate):
        network = None

        def is_dynamic(self):
            return True

        def patch_hook_weight_to_device(self, *args, **kwargs):
            raise RuntimeError("Hooks not implemented in ModelPatcherDynamic.")

        def get_non_dynamic_delegate(self):
            config = self.model.model_config
            self.network = self.network or copy.deepcopy(self.model, {id(config): config})
            n = self.clone()
            n.__class__, n.model = Delegate, self.network
            n.backup, n.object_patches_backup, n.hook_backup, n.pinned = {}, {}, {}, set()
            return n

    def make(patcher):
        patcher.__class__, patcher.clone_base_uuid = Paged, uuid.uuid4()
        return patcher

    return make


def test_scheduled_loras_act_on_delegates(comfy_host, pack, paged):
    """Experts that share a network share its delegate's too, which is made once, not in every run."""
    shop = Shop(comfy_host)
    aggregator = random_aggregator(shop.plain, 4)

    def ensembled(first, other):
        return ensemble(comfy_host, aggregator, first, other, shop.with_lora(first), shop.with_lora(other))

    wires = hooked_lora(shop.wires(ensembled(shop.plain, shop.other)))
    expected = sample(wires)
    main = ensembled(*(paged(shop.load(f"tiny_sd15_{name}")[0]) for name in "ab"))
    networks = []
    for _ in range(2):
        delegate = main.get_non_dynamic_delegate()  # what the host's guider does where prompts have hooks
        assert torch.equal(sample(replace(wires, model=delegate)), expected)
        networks.append([patcher.model for patcher in delegate.get_additional_models_with_key("afa")])
    assert all(one is other for one, other in zip(*networks, strict=True))
    assert len(networks[0]) == 4  # the other network, the LoRAs beside both, the aggregator
    assert torch.isfinite(sample(shop.wires(main))).all()
