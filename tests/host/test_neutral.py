"""Ensembles that must be something known, to the bit: one expert, the first expert, an average."""

from dataclasses import replace

import pytest
import torch

from tests.support.ensembles import (
    certain_aggregator,
    ensemble,
    random_aggregator,
    text_for,
    training_free,
    untrained,
)
from tests.support.graphs import control_net, freeu_v2, ip_adapter, sample
from tests.support.shop import Shop

FAMILIES = ["tiny_sd15", "tiny_sd2", "tiny_sdxl"]


@pytest.fixture(scope="module")
def shop(comfy_host, pack):
    return Shop(comfy_host)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, comfy_host, pack):
    """(a, a again, b, wires): checkpoints of one family, and a graph around the first."""
    shop = Shop.__new__(Shop)
    shop.host = comfy_host
    a, shop.clip = shop.load(f"{request.param}_a")
    shop.positive, shop.negative = shop.encode("a cat"), shop.encode("blurry")
    shop.lora = shop.control_net = ""  # no graph here uses them
    return a, shop.load(f"{request.param}_a")[0], shop.load(f"{request.param}_b")[0], shop.wires(a)


def through(wires, model):
    return sample(replace(wires, model=model))


# ------------------------------------------------------------------ one expert alone
@pytest.mark.parametrize("method", ["block average", "last block average", "noise average"])
@pytest.mark.parametrize("chosen", [0, 1])
def test_all_the_weight_on_one_expert(family, comfy_host, method, chosen):
    a, _, b, wires = family
    weights = ["1, 0", "0, 1"][chosen]
    found = through(wires, ensemble(comfy_host, training_free(comfy_host, method, weights), a, b))
    assert torch.equal(found, through(wires, [a, b][chosen]))


@pytest.mark.parametrize("chosen", [0, 1])
def test_an_aggregator_that_is_sure(family, comfy_host, chosen):
    a, _, b, wires = family
    found = through(wires, ensemble(comfy_host, certain_aggregator(a, 2, chosen), a, b))
    assert torch.equal(found, through(wires, [a, b][chosen]))


def test_one_of_three_with_its_own_text(shop):
    """Followed alone, an expert reads its own prompts: those it would have read by itself."""
    third = shop.load("tiny_sd15_c")[0]
    texts = {name: shop.encode(name)[0][0] for name in ("cat", "dog", "bad", "worse")}
    model = ensemble(shop.host, certain_aggregator(shop.plain, 3, 2), shop.plain, shop.other, third)
    wires = replace(
        shop.wires(model),
        positive=text_for([texts["cat"], texts["cat"], texts["dog"]]),
        negative=text_for([texts["bad"], texts["bad"], texts["worse"]]),
    )
    alone = replace(shop.wires(third), positive=[[texts["dog"], {}]], negative=[[texts["worse"], {}]])
    assert torch.equal(sample(wires), sample(alone))


def test_own_text_where_only_one_prompt_carries_it(shop):
    """The other prompt is read by every expert; the host still evaluates both in one batch."""
    texts = {name: shop.encode(name)[0][0] for name in ("cat", "dog")}
    model = ensemble(shop.host, certain_aggregator(shop.plain, 2, 1), shop.plain, shop.other)
    wires = replace(shop.wires(model), positive=text_for([texts["cat"], texts["dog"]]))
    alone = replace(shop.wires(shop.other), positive=[[texts["dog"], {}]])
    assert torch.equal(sample(wires), sample(alone))


# ------------------------------------------------------------------ copies
@pytest.mark.parametrize("layers", [1, 2])
def test_copies_of_one_expert(family, comfy_host, layers):
    """Whatever a trained aggregator decides between equals."""
    a, again, _, wires = family
    aggregator = random_aggregator(a, 2, num_layers=layers)
    assert torch.equal(through(wires, ensemble(comfy_host, aggregator, a, again)), through(wires, a))


@pytest.mark.parametrize("n", [2, 5, 8])
def test_the_same_model_on_every_socket(shop, n):
    """Weights are loaded once, however many sockets they are on."""
    model = ensemble(shop.host, random_aggregator(shop.plain, n), *[shop.plain] * n)
    assert len(model.get_additional_models()) == 1  # the aggregator
    wires = shop.wires(model)
    assert torch.equal(sample(wires), through(wires, shop.plain))


def test_different_experts_are_different(family, comfy_host):
    """The tests above could pass with every expert being the first one."""
    a, again, b, wires = family
    found = through(wires, ensemble(comfy_host, "block average", a, b))
    for alone in (a, b):
        assert not torch.allclose(found, through(wires, alone), atol=0.1)


# ------------------------------------------------------------------ averages
def test_an_untrained_aggregator_is_the_block_average(family, comfy_host):
    a, _, b, wires = family
    aggregator = untrained(random_aggregator(a, 2))
    found = through(wires, ensemble(comfy_host, aggregator, a, b))
    assert torch.equal(found, through(wires, ensemble(comfy_host, "block average", a, b)))


def test_equal_weights_are_no_weights(shop):
    pair = shop.plain, shop.other
    weighted = ensemble(shop.host, training_free(shop.host, "block average", "2, 2"), *pair)
    wires = shop.wires(weighted)
    assert torch.equal(sample(wires), through(wires, ensemble(shop.host, "block average", *pair)))


# ------------------------------------------------------------------ start and end percent
@pytest.mark.parametrize(("start", "end"), [(1.0, 1.0), (0.0, 0.0)])
def test_outside_the_percents_model_1_is_alone(shop, start, end):
    """With what is its own: a LoRA, a patch; and with what is put on the ensemble."""
    own = ip_adapter(shop.wires(shop.with_lora(shop.plain)))
    model = ensemble(shop.host, "block average", own.model, shop.other, start_percent=start, end_percent=end)
    for piece in (lambda w: w, freeu_v2, control_net):
        found = sample(piece(replace(own, model=model)).with_widgets(steps=3, scheduler="karras"))
        assert torch.equal(found, sample(piece(own).with_widgets(steps=3, scheduler="karras")))


def test_between_the_percents_the_experts_are_fused(shop):
    """The first half of the steps by the ensemble, the others by model_1: as two samplers would do it."""
    models = shop.plain, shop.other
    half = ensemble(shop.host, "block average", *models, end_percent=0.5)
    whole = ensemble(shop.host, "block average", *models)
    wires = shop.wires(half)
    sigmas = wires.call("BasicScheduler", model=shop.plain, scheduler="normal", steps=4, denoise=1.0)
    edge = shop.plain.get_model_object("model_sampling").percent_to_sigma(0.5)
    fused = int((sigmas[:-1] >= edge).sum())
    assert 0 < fused < 4

    def run(model, sigmas, latent, fresh):
        sampler = wires.call("KSamplerSelect", sampler_name="euler")
        return wires.call(
            "SamplerCustom", model=model, add_noise=fresh, noise_seed=1, cfg=5.0, positive=wires.positive,
            negative=wires.negative, sampler=sampler, sigmas=sigmas, latent_image=latent,
        )  # fmt: skip

    expected = run(shop.plain, sigmas[fused:], run(whole, sigmas[: fused + 1], wires.latent, True), False)
    found = run(half, sigmas, wires.latent, True)
    torch.testing.assert_close(found["samples"], expected["samples"], rtol=1e-4, atol=1e-3)


# ------------------------------------------------------------------ whose patches
def test_an_experts_own_patch_stays_on_it(shop):
    patched = ip_adapter(shop.wires(shop.other)).model
    for chosen, expert in enumerate([shop.plain, patched]):
        model = ensemble(shop.host, certain_aggregator(shop.plain, 2, chosen), shop.plain, patched)
        wires = shop.wires(model)
        assert torch.equal(sample(wires), through(wires, expert))
    assert not torch.equal(through(wires, patched), through(wires, shop.other))


def test_one_checkpoint_with_and_without_a_patch(shop):
    """Both are one network; the patch still acts on one of the two sockets."""
    patched = freeu_v2(shop.wires(shop.plain)).model
    for chosen, expert in enumerate([patched, shop.plain]):
        model = ensemble(shop.host, certain_aggregator(shop.plain, 2, chosen), patched, shop.plain)
        wires = shop.wires(model)
        assert torch.equal(sample(wires), through(wires, expert))


@pytest.mark.parametrize("piece", [control_net, freeu_v2], ids=lambda piece: piece.__name__)
@pytest.mark.parametrize("n", [2, 3])
def test_what_writes_in_place_is_applied_once(shop, piece, n):
    experts = [shop.plain, *shop.copies][:n]
    found = sample(piece(shop.wires(ensemble(shop.host, random_aggregator(shop.plain, n), *experts))))
    assert torch.equal(found, sample(piece(shop.wires(shop.plain))))
