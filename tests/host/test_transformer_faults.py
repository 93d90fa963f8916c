"""Whatever goes wrong in a stream of a transformer: an error that names it, no thread left, and the next run as ever.

Every test has a time limit: a thread that waits for another one must not wait for ever.
"""

import faulthandler
import gc
import threading
from dataclasses import replace

import pytest
import torch

from tests.support.ensembles import ensemble, random_aggregator
from tests.support.faults import failing_module, interrupted, interruption, nan_from, out_of_memory
from tests.support.transformers import Case, by_host, by_stream, load, sample

TOYS = ["tiny_flux_a", "tiny_lumina_a", "tiny_cosmos_a"]
SECONDS = 60
STEPS = 2


@pytest.fixture(scope="module", params=TOYS)
def case(request, comfy_host) -> Case:
    return load(comfy_host, request.param)


@pytest.fixture(autouse=True)
def _nothing_hangs(case):
    """Ends the tests with the stacks of all threads, after a minute; sees that no thread of an expert is left."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        expected = by_host(case, case.inputs())
        yield
        gc.collect()
        assert not [thread.name for thread in threading.enumerate() if thread.name == "AFA expert"]
        assert not [name for name, m in case.network.named_modules() if m._forward_hooks or m._forward_pre_hooks]
        assert torch.equal(by_stream(case, case.inputs(), experts=[case, case], fusion=first), expected)
    finally:
        faulthandler.cancel_dump_traceback_later()


def first(point, features, state):
    return [features[0].view_as(features[0])] * len(features)


def block(case: Case, index: int = -1):
    return case.architecture.blocks(case.network)[index].module


@pytest.mark.parametrize("index", [0, 2, -1])
@pytest.mark.parametrize("call", [1, 2])
def test_an_expert_raises(case, index, call):
    with failing_module(block(case, index), RuntimeError("broken"), call), pytest.raises(RuntimeError, match="broken"):
        by_stream(case, case.inputs(), experts=[case, case], fusion=first)


def test_a_fusion_raises(case):
    def fusion(point, features, state):
        if point.index == 2:
            raise ValueError("no fusion")
        return features

    with pytest.raises(ValueError, match="no fusion"):
        by_stream(case, case.inputs(), experts=[case, case], fusion=fusion)


def test_interrupted_at_any_moment(case):
    """At every moment at which the host asks whether it was."""
    with interrupted() as asked:
        by_stream(case, case.inputs(batch=1), experts=[case, case], fusion=first)
    assert len(asked) > 20
    for at in range(1, len(asked) + 1, max(1, len(asked) // 25)):
        with interrupted(at), pytest.raises(interruption()):
            by_stream(case, case.inputs(batch=1), experts=[case, case], fusion=first)
        gc.collect()
        assert not [thread.name for thread in threading.enumerate() if thread.name == "AFA expert"]


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_closed_in_the_middle(case, steps):
    with torch.inference_mode():
        stream, _ = case.architecture.stream(case.model, case.named(case.inputs(), None, {}))
        sent = None
        for _ in range(steps):
            sent = stream.send(sent)
        stream.close()
        with pytest.raises(StopIteration):
            next(stream)


def test_forgotten_in_the_middle(case):
    """As where an error keeps a stream from being closed."""
    with torch.inference_mode():
        stream, _ = case.architecture.stream(case.model, case.named(case.inputs(), None, {}))
        next(stream)
    del stream


def test_a_skipped_block_is_named(case, monkeypatch):
    """As a cache skips blocks that change little."""
    from afa_core.host.architectures.transformer_stream import BlockSkipped

    blocks = case.architecture.blocks(case.network)
    monkeypatch.setattr(
        type(case.architecture), "blocks", lambda self, network: [*blocks[:2], absent(blocks[2]), *blocks[2:]]
    )
    with pytest.raises(BlockSkipped, match="absent"):
        by_stream(case, case.inputs())


def absent(block):
    """A block that the network does not come by."""
    return replace(block, name="absent", module=torch.nn.Identity(), slot=block.slot and ("double_block", 1000))


def test_an_early_return_is_named(case, monkeypatch):
    from afa_core.host.architectures.transformer_stream import BlockSkipped

    def early(*args, **kwargs):
        return args[0]

    monkeypatch.setattr(case.network, "_forward", early, raising=False)
    with pytest.raises(BlockSkipped, match=case.points[0].name):
        by_stream(case, case.inputs())


# ------------------------------------------------------------------ while an ensemble samples
@pytest.fixture
def patient(case, comfy_host, pack):
    """(ensemble of two experts, what it samples, the network of each of its experts and of its aggregator)"""
    twin = load(comfy_host, case.name[:-1] + "b")
    model = ensemble(comfy_host, random_aggregator(case.patcher, 2), case.patcher, twin.patcher)

    def run():
        return sample(comfy_host, model, case, steps=STEPS)

    expected = run()
    yield run, [case, twin], model.get_additional_models()[-1].model.aggregators["3"]
    assert torch.equal(run(), expected)


@pytest.mark.parametrize("index", [1, 3], ids=["not fused", "fused"])
@pytest.mark.parametrize("step", [1, 2])
def test_nan_is_traced_to_its_expert_block_and_step(patient, step, index):
    from afa_core.fusion.not_finite import NotFinite

    run, (case, twin), _ = patient
    module = block(twin, index)
    told = f"model_2 produced NaN or infinite numbers in block {case.points[index].name} in step {step} of {STEPS} "
    with nan_from(getattr(module, "img_mlp", module), first=step), pytest.raises(NotFinite, match=told):
        run()


def test_nan_of_the_aggregator_is_reported(patient):
    from afa_core.fusion.not_finite import NotFinite

    run, (case, _), aggregator = patient
    told = f"The aggregator produced NaN or infinite numbers at {case.points[3].name} in step 1 of {STEPS} "
    with nan_from(aggregator.conv_out), pytest.raises(NotFinite, match=told):
        run()


@pytest.mark.parametrize(("part", "name"), [(0, "model_1"), (1, "model_2"), (2, "The aggregator")])
def test_memory_runs_out(patient, part, name):
    import comfy.model_management as memory

    run, cases, aggregator = patient
    module = aggregator.transformer if part == 2 else block(cases[part])
    told = f"{name} ran out of memory: make the picture or the batch smaller"
    with failing_module(module, out_of_memory(), at=2), pytest.raises(memory.OOM_EXCEPTION, match=told):
        run()


def test_nan_travels(case):
    with nan_from(case.network.get_submodule("img_in" if case.family == "flux" else "x_embedder")):
        assert not torch.isfinite(by_stream(case, case.inputs(), experts=[case, case], fusion=first)).all()
