"""`compile` of AFA Ensemble Model: the fusion points run compiled, and the picture is the same."""

from functools import partial

import pytest
import torch

from afa_core.fusion.compiled import CompiledAttend, check_compiler
from tests.support.ensembles import ensemble, random_aggregator, training_free
from tests.support.graphs import sample
from tests.support.shop import Shop


@pytest.fixture
def traced(monkeypatch):
    """Graphs are traced, and run by PyTorch as they are: no compiler is needed."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    check_compiler.cache_clear()
    torch._dynamo.reset()
    yield
    check_compiler.cache_clear()


def test_a_compiled_ensemble_paints_the_same(comfy_host, pack, traced):
    from afa_core.host.sampling.parts import ensemble_of

    shop = Shop(comfy_host)
    file, models = random_aggregator(shop.plain, 2), (shop.plain, shop.other)
    compiled = ensemble(comfy_host, file, *models, compile=True)
    attend = ensemble_of(compiled).fusion.attend
    found = sample(shop.wires(compiled))
    assert isinstance(attend, CompiledAttend) and attend.graphs
    assert torch.equal(found, sample(shop.wires(ensemble(comfy_host, file, *models))))


def test_a_fusion_without_an_aggregator_has_nothing_to_compile(comfy_host, pack, checkpoint):
    models = [checkpoint(f"tiny_sd15_{letter}")[0] for letter in "ab"]
    assert ensemble(comfy_host, training_free(comfy_host, "block average"), *models, compile=True) is not None
