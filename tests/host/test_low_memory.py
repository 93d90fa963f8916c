"""Experts that are loaded in part, or stored in fewer bits: an ensemble of them works as one of whole experts does."""

from weakref import WeakSet

import pytest
import torch

from tests.support import transformers
from tests.support.ensembles import certain_aggregator, ensemble, random_aggregator
from tests.support.graphs import hooked_lora, sample
from tests.support.node_trainer import WHOLE, Trainer, twelve_pictures
from tests.support.shop import Shop
from tests.support.small_files import make_lora
from tests.support.training_toys import same_weights

MIB = 2**20


@pytest.fixture(scope="module")
def shop(comfy_host, pack):
    return Shop(comfy_host)


@pytest.fixture(scope="module")
def trainer(comfy_host, pack, tmp_path_factory):
    return Trainer(comfy_host, twelve_pictures(tmp_path_factory.mktemp("pictures")))


@pytest.fixture
def little_memory(monkeypatch):
    """little_memory(bytes): the host takes the CPU for a graphics card with so much memory, as under --lowvram."""
    import comfy.model_management as memory

    networks = WeakSet()

    def allow(total: int) -> None:
        def free(device=None, torch_free_too=False):
            # All that were ever loaded: the host takes a model off its list to load it anew, but not off the card.
            networks.update(loaded.model.model for loaded in memory.current_loaded_models)
            left = max(0, total - sum(network.model_loaded_weight_memory for network in networks))
            return (left, left) if torch_free_too else left

        monkeypatch.setattr(memory, "is_device_cpu", lambda device: False)
        monkeypatch.setattr(memory, "lowvram_available", True)
        monkeypatch.setattr(memory, "vram_state", memory.VRAMState.LOW_VRAM)
        monkeypatch.setattr(memory, "minimum_inference_memory", lambda: 0)
        monkeypatch.setattr(memory, "EXTRA_RESERVED_VRAM", 0)
        monkeypatch.setattr(memory, "get_free_memory", free)

    return allow


def loaded_share(model) -> list[float]:
    """Of every expert of an ensemble of two, how much of it is loaded. The aggregator may fit whole."""
    return [p.loaded_size() / p.model_size() for p in (model, *model.get_additional_models()[:1])]


def run(shop, model):
    return sample(shop.wires(model))


# ------------------------------------------------------------------ loaded in part
@pytest.mark.parametrize("total", [0, 16 * MIB])
@pytest.mark.parametrize("wire", [lambda w: w, hooked_lora], ids=["plain", "scheduled LoRA"])
def test_experts_loaded_in_part(shop, little_memory, total, wire):
    """Each expert gives what it gives alone and whole, but for the order of the sums in the host's attention.

    That goes by the memory that is free; where none is, alone and in the ensemble, the two are the same to the bit.
    """
    import comfy.model_management as memory

    def painted(model):
        return sample(wire(shop.wires(model)))

    models = [shop.with_lora(shop.plain), shop.other]
    whole = [painted(model) for model in models]
    memory.unload_all_models()
    little_memory(total)
    for chosen, alone in enumerate([painted(model) for model in models]):
        model = ensemble(shop.host, certain_aggregator(shop.plain, 2, chosen), *models)
        found = painted(model)
        assert max(loaded_share(model)) < 1
        assert any(loaded_share(model)) == bool(total)
        assert total or torch.equal(found, alone)
        assert (found - whole[chosen]).abs().max() < 1e-3 * whole[chosen].abs().max()


@pytest.mark.parametrize(("family", "share"), [("flux", 0.0), *((family, 0.9) for family in transformers.FAMILIES)])
def test_transformers_loaded_in_part(comfy_host, pack, little_memory, family, share):
    """As above; share: how much of one expert's weights the card has room for."""
    import comfy.model_management as memory

    cases = [transformers.load(comfy_host, f"tiny_{family}_{letter}") for letter in "ab"]
    whole = [transformers.sample(comfy_host, case.patcher, case) for case in cases]
    memory.unload_all_models()
    little_memory(int(share * cases[0].patcher.model_size()))
    for chosen, expected in enumerate(whole):
        following = certain_aggregator(cases[0].patcher, 2, chosen)
        model = ensemble(comfy_host, following, *(case.patcher for case in cases))
        found = transformers.sample(comfy_host, model, cases[0])
        assert max(loaded_share(model)) < 1
        # Four fifths of Anima's toy are one embedding, for which there is no room.
        assert any(loaded_share(model)) == bool(share and family != "anima")
        assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


# ------------------------------------------------------------------ stored in fewer bits
def in_fp8(shop, name):
    """As the host loads a checkpoint under --fp8_e4m3fn-unet."""
    import comfy.sd

    path = str(shop.host.base / "models" / "checkpoints" / f"{name}.safetensors")
    with torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(path, model_options={"dtype": torch.float8_e4m3fn})[0]


def packed(shop, name):
    from tests.support.packed_weights import load_packed

    return load_packed(str(shop.host.base / "models" / "checkpoints" / f"{name}.safetensors"))


STORED = {"fp8": in_fp8, "packed": packed}


@pytest.mark.parametrize("stored", list(STORED))
@pytest.mark.parametrize("patched", [False, True], ids=["", "with a LoRA"])
def test_twins_are_the_plain_model(shop, stored, patched):
    models = [STORED[stored](shop, "tiny_sd15_a") for _ in range(3)]
    assert any(parameter.element_size() == 1 for parameter in models[0].model.parameters())
    if patched:
        models = [shop.with_lora(model) for model in models]
    expected = run(shop, models[0])
    assert not torch.equal(expected, run(shop, shop.plain))
    assert torch.equal(run(shop, ensemble(shop.host, random_aggregator(shop.plain, 2), *models[1:])), expected)


@pytest.mark.parametrize("stored", list(STORED))
def test_beside_an_expert_in_full_precision(shop, stored):
    models = [STORED[stored](shop, "tiny_sd15_a"), shop.other]
    expected = [run(shop, model) for model in models]
    for order in ([0, 1], [1, 0]):
        for place, which in enumerate(order):
            model = ensemble(shop.host, certain_aggregator(shop.plain, 2, place), *(models[i] for i in order))
            assert torch.equal(run(shop, model), expected[which])


@pytest.mark.parametrize("family", transformers.FAMILIES)
def test_transformers_in_fp8(comfy_host, pack, family):
    """Copies of one are the plain model, and a following ensemble is the one that it follows."""
    cases = [transformers.load(comfy_host, f"tiny_{family}_{letter}", "fp8_e4m3fn") for letter in "ab"]
    assert any(parameter.element_size() == 1 for parameter in cases[0].network.parameters())
    models = [case.patcher for case in cases]
    first, second = (transformers.sample(comfy_host, case.patcher, case) for case in cases)
    copies = ensemble(comfy_host, random_aggregator(models[0], 2), models[0], models[0].clone())
    assert torch.equal(transformers.sample(comfy_host, copies, cases[0]), first)
    following = ensemble(comfy_host, certain_aggregator(models[0], 2, 1), *models)
    assert torch.equal(transformers.sample(comfy_host, following, cases[0]), second)


def in_full(shop, stored, model):
    """The same weights in float32: there a LoRA is merged without being rounded to a few bits with them."""
    if stored == "packed":  # which the host merges into what it unpacks
        return model
    full = shop.load("tiny_sd15_a")[0]
    with torch.inference_mode():
        for own, theirs in zip(full.model.parameters(), model.model.parameters(), strict=True):
            own.copy_(theirs.float())
    return full


@pytest.mark.parametrize("stored", list(STORED))
def test_one_checkpoint_with_two_loras(shop, stored):
    second = make_lora(shop.host.base, shop.plain, name="second_lora", seed=1)
    model = STORED[stored](shop, "tiny_sd15_a")

    def patched(model):
        return [shop.with_lora(model), shop.with_lora(model, 0.8, second), model]

    models, alone = patched(model), run(shop, model)
    expected = [run(shop, m) for m in patched(in_full(shop, stored, model))]
    assert not torch.allclose(expected[0], expected[1], rtol=1e-2)
    for chosen in range(3):
        found = run(shop, ensemble(shop.host, certain_aggregator(shop.plain, 3, chosen), *models))
        assert (found - expected[chosen]).norm() < 1e-4 * expected[chosen].norm()
    assert torch.equal(run(shop, model), alone)


def test_weights_are_brought_in_once_for_all_experts_of_a_network(shop, monkeypatch):
    """Each weight and bias is cast once an evaluation, not once an expert; what is painted is the same to the bit."""
    import comfy.model_management as memory
    import comfy.ops

    from afa_core.host.experts import held_weights

    casts = []
    weight_and_bias, cast_to = comfy.ops.cast_bias_weight, memory.cast_to

    def counted_layer(layer, x=None, *args, **kwargs):  # by the host, whatever it casts the parameters with
        casts.extend(p for p in layer.parameters(recurse=False) if x is not None and p.dtype != x.dtype)
        with monkeypatch.context() as uncounted:
            uncounted.setattr(memory, "cast_to", cast_to)
            return weight_and_bias(layer, x, *args, **kwargs)

    def counted(tensor, dtype=None, *args, **kwargs):  # by what holds them
        casts.extend([tensor] if dtype not in (None, tensor.dtype) else [])
        return cast_to(tensor, dtype, *args, **kwargs)

    monkeypatch.setattr(comfy.ops, "cast_bias_weight", counted_layer)
    monkeypatch.setattr(memory, "cast_to", counted)

    def painted(model):
        casts.clear()
        return sample(shop.wires(model).with_widgets(steps=1, cfg=1.0)), len(casts)

    model = in_fp8(shop, "tiny_sd15_a")
    ensembled = ensemble(shop.host, "block average", model, *(shop.with_lora(model, s) for s in (0.5, 0.8)))
    _, alone = painted(model)
    found, held = painted(ensembled)
    monkeypatch.setattr(held_weights, "PART_OF_FREE_MEMORY", 0)
    expected, every_time = painted(ensembled)
    assert (held, every_time) == (alone, 3 * alone) and alone > 500
    assert torch.equal(found, expected)
    assert {parameter.dtype for parameter in model.model.diffusion_model.parameters()} == {torch.float8_e4m3fn}


# ------------------------------------------------------------------ training
def test_training_on_experts_loaded_in_part(trainer, little_memory):
    expected = trainer.run("whole experts", **WHOLE).state
    little_memory(16 * MIB)
    assert same_weights(trainer.run("experts in part", **WHOLE).state, expected)


@pytest.mark.parametrize("stored", list(STORED))
def test_training_on_experts_in_fewer_bits(shop, trainer, stored):
    models = {f"model_{i}": STORED[stored](shop, f"tiny_sd15_{name}") for i, name in enumerate("ab", start=1)}
    before = run(shop, models["model_1"])
    file = trainer.run(f"on {stored}", **models, **WHOLE)
    assert all(loss > 0 for loss in file.training["losses"]) and len(file.training["losses"]) == 4
    assert torch.equal(run(shop, models["model_1"]), before)
