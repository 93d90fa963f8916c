"""LoRAs stay on their experts, and nothing stays behind: no patched weight, no model, no hook."""

import gc
import weakref
from collections import Counter
from dataclasses import replace

import pytest
import torch

from tests.support.ensembles import certain_aggregator, ensemble, random_aggregator, training_free
from tests.support.graphs import hooked_lora, sample, zero_terminal_snr
from tests.support.shop import Shop
from tests.support.small_files import make_lora


@pytest.fixture(scope="module")
def shop(comfy_host, pack):
    return Shop(comfy_host)


def run(shop, model, **widgets):
    return sample(shop.wires(model).with_widgets(**widgets))


def only(shop, chosen: int, *models):
    """An ensemble that follows one of these models: shows what this expert's weights are."""
    return ensemble(shop.host, certain_aggregator(shop.plain, len(models), chosen), *models)


# ------------------------------------------------------------------ LoRA
@pytest.mark.parametrize("patched", [0, 1])
def test_a_lora_on_one_expert_stays_there(shop, patched):
    models = [shop.plain, shop.other]
    models[patched] = shop.with_lora(models[patched])
    for chosen in range(2):
        assert torch.equal(run(shop, only(shop, chosen, *models)), run(shop, models[chosen]))
    assert not torch.equal(run(shop, models[patched]), run(shop, [shop.plain, shop.other][patched]))


def test_a_lora_on_the_ensemble_acts_on_all(shop):
    models = [shop.plain, shop.with_lora(shop.other, 0.5)]
    aggregator = random_aggregator(shop.plain, 2)
    behind = shop.with_lora(ensemble(shop.host, aggregator, *models))
    before = ensemble(shop.host, aggregator, *map(shop.with_lora, models))
    assert torch.equal(run(shop, behind), run(shop, before))
    assert not torch.equal(run(shop, behind), run(shop, ensemble(shop.host, aggregator, *models)))


def test_the_ensemble_before_the_lora_goes_on_without_it(shop):
    """Two branches of one graph, run in turns."""
    plain = ensemble(shop.host, "block average", shop.plain, shop.other)
    patched = shop.with_lora(plain)
    expected = run(shop, plain), run(shop, patched)
    assert torch.equal(run(shop, plain), expected[0])
    assert torch.equal(run(shop, patched), expected[1])
    assert not torch.equal(*expected)


def test_two_loras_behind_the_ensemble(shop):
    second = make_lora(shop.host.base, shop.plain, name="second_lora", seed=1)

    def both(model):
        return shop.with_lora(shop.with_lora(model), 0.4, second)

    behind = both(ensemble(shop.host, "block average", shop.plain, shop.other))
    before = ensemble(shop.host, "block average", both(shop.plain), both(shop.other))
    assert torch.equal(run(shop, behind), run(shop, before))


@pytest.mark.parametrize("loaded_before", [False, True])
def test_one_checkpoint_with_two_loras_is_two_experts(shop, loaded_before):
    """Also where the host holds the checkpoint with one of them patched in at this moment."""
    untouched = run(shop, shop.plain)
    second = make_lora(shop.host.base, shop.plain, name="second_lora", seed=1)
    models = [shop.with_lora(shop.plain), shop.with_lora(shop.plain, 0.8, second), shop.plain]
    expected = [run(shop, model) for model in models]
    if loaded_before:
        run(shop, models[1])
    for chosen in range(3):
        found = run(shop, only(shop, chosen, *models))
        assert (found - expected[chosen]).norm() < 1e-4 * expected[chosen].norm()
    assert torch.equal(run(shop, shop.plain), untouched)
    assert not torch.equal(expected[0], expected[1])


def test_one_checkpoint_with_two_samplings(shop):
    """An object patch on one of two sockets does not reach the other."""
    models = [shop.plain, zero_terminal_snr(shop.wires(shop.plain)).model]
    alone = run(shop, ensemble(shop.host, training_free(shop.host, "noise average", "1, 0"), *models))
    assert torch.equal(alone, run(shop, shop.plain))


def test_scheduled_weights_are_computed_once_a_keyframe(shop, monkeypatch):
    """As the host does for a plain model, which keeps them from step to step; also where two experts share a network."""
    from comfy.model_patcher import ModelPatcher

    models = [shop.plain, shop.other, shop.with_lora(shop.other)]
    model = ensemble(shop.host, random_aggregator(shop.plain, 3), *models)
    computed, compute = Counter(), ModelPatcher.patch_hook_weight_to_device

    def counted(patcher, *args, **kwargs):
        computed[patcher.model] += 1
        return compute(patcher, *args, **kwargs)

    monkeypatch.setattr(ModelPatcher, "patch_hook_weight_to_device", counted)
    wires = hooked_lora(shop.wires(model)).with_widgets(steps=6)
    sample(wires)
    assert len(computed) == 2 and len(set(computed.values())) == 1
    sample(replace(wires, model=shop.copies[0]))
    assert computed[shop.copies[0].model] == computed[shop.plain.model]


# ------------------------------------------------------------------ nothing stays behind
class Stop(Exception):
    """A sampler that fails on purpose."""


def stopping(shop, model, error: BaseException):
    """Runs two steps and raises in the middle of the third, in the last expert's network."""
    calls = []

    def patch(h, options):
        calls.append(options["block"])
        if len(calls) == 40:
            raise error
        return h

    model = model.clone()
    model.set_model_input_block_patch(patch)
    with pytest.raises(type(error)):
        sample(hooked_lora(shop.wires(model)).with_widgets(steps=6))
    assert len(calls) == 40


def interruption() -> BaseException:
    import comfy.model_management

    return comfy.model_management.InterruptProcessingException()


ENDINGS = {
    "run": lambda shop, model: sample(hooked_lora(shop.wires(model))),
    "interrupted": lambda shop, model: stopping(shop, model, interruption()),
    "failed": lambda shop, model: stopping(shop, model, Stop()),
}


@pytest.mark.parametrize("ending", list(ENDINGS))
def test_experts_are_what_they_were(shop, ending):
    """Alone and in the same ensemble again; with a LoRA of their own and a scheduled one that was on."""
    models = [shop.with_lora(shop.plain), shop.other]
    model = ensemble(shop.host, random_aggregator(shop.plain, 2), *models)
    expected = [run(shop, m) for m in (shop.plain, shop.other, model)]
    ENDINGS[ending](shop, model)
    for expert in (*models, *model.get_additional_models()):
        assert getattr(expert.model, "current_patcher", None) is None
        assert not expert.hook_backup
    for m, before in zip((shop.plain, shop.other, model), expected, strict=True):
        assert torch.equal(run(shop, m), before)


@pytest.mark.parametrize("ending", list(ENDINGS))
def test_nothing_is_left_in_memory(shop, ending):
    import comfy.model_management as memory

    models = [shop.load("tiny_sd15_a")[0], shop.load("tiny_sd15_b")[0]]
    networks = [weakref.ref(model.model) for model in models]
    ensembled = ensemble(shop.host, random_aggregator(shop.plain, 3), shop.with_lora(models[0]), *models)
    patchers = [ensembled, *ensembled.get_additional_models()]
    watched = networks + [weakref.ref(patcher.model) for patcher in patchers] + [weakref.ref(p) for p in patchers]
    ENDINGS[ending](shop, ensembled)
    watched += [weakref.ref(patcher) for patcher in ensembled.get_additional_models()]
    del models, ensembled, patchers
    gc.collect()
    memory.cleanup_models_gc()
    memory.cleanup_models()
    assert [ref() for ref in watched if ref() is not None] == []
    assert not [m for m in memory.current_loaded_models if m.model is None and m.real_model() is not None]


def test_unloading_takes_every_patch_off(shop):
    import comfy.model_management as memory

    def digest(model):
        return [tensor.clone() for tensor in model.model.state_dict().values()]

    models = [shop.plain, shop.other]
    before = [digest(model) for model in models]
    run(shop, shop.with_lora(ensemble(shop.host, "block average", *models)))
    patched = [digest(model) for model in models]
    memory.unload_all_models()
    for model, original, meanwhile in zip(models, before, patched, strict=True):
        assert not all(torch.equal(a, b) for a, b in zip(original, meanwhile, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(original, digest(model), strict=True))


def test_an_ensemble_stays_loaded_between_runs(shop):
    """The second run of the same graph loads nothing anew: the host's patchers are the same ones."""
    import comfy.model_management as memory

    model = shop.with_lora(ensemble(shop.host, random_aggregator(shop.plain, 2), shop.plain, shop.other))
    loads = []
    for patcher in (model, *model.get_additional_models()):
        patcher.add_callback("on_load_after", lambda p, *_: loads.append(p))
    run(shop, model)
    first = {id(m.model.model): m.model.patches_uuid for m in memory.current_loaded_models}
    loads.clear()
    run(shop, model, seed=2)
    assert {id(m.model.model): m.model.patches_uuid for m in memory.current_loaded_models} == first
    assert loads == []
