"""Training on a host that pages weights in from their files: experts that are trained through are read without that."""

import pytest
import torch


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
