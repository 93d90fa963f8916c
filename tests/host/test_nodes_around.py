"""The host's nodes around an ensemble: each acts as on an expert alone, or is refused or named."""

from dataclasses import replace

import pytest
import torch

from tests.support.ensembles import certain_aggregator, ensemble, random_aggregator, text_for, training_free
from tests.support.graphs import sample
from tests.support.refusing import refused
from tests.support.shop import Shop


@pytest.fixture(scope="module")
def shop(comfy_host, pack):
    return Shop(comfy_host)


def following(shop, chosen: int, *models):
    return ensemble(shop.host, certain_aggregator(shop.plain, 2, chosen), *(models or (shop.plain, shop.other)))


def shrunk(shop, model, end_percent: float = 0.35):
    return shop.host.call(
        "PatchModelAddDownscale", model=model, block_number=1, downscale_factor=2.0, start_percent=0.0, end_percent=end_percent,
        downscale_after_skip=True, downscale_method="bicubic", upscale_method="bicubic",
    )[0]  # fmt: skip


@pytest.mark.parametrize("chosen", [0, 1])
def test_a_compute_dtype_behind_the_ensemble_is_that_of_all_experts(shop, chosen):
    def put(model):
        return shop.host.call("ModelComputeDtype", model=model, dtype="bf16")[0]

    expected = sample(shop.wires(put([shop.plain, shop.other][chosen])))
    assert torch.equal(sample(shop.wires(put(following(shop, chosen)))), expected)


@pytest.mark.parametrize("every", [1, 3])
def test_features_may_change_their_size_between_two_decisions(shop, every):
    """Deep Shrink ends in the second of four steps."""
    expected = sample(shop.wires(shrunk(shop, shop.plain)).with_widgets(steps=4))
    model = ensemble(shop.host, random_aggregator(shop.plain, 2), shop.plain, shop.copies[0], decide_every=every)
    assert torch.equal(sample(shop.wires(shrunk(shop, model)).with_widgets(steps=4)), expected)


def test_features_of_one_expert_alone_that_change_their_size(shop, expert_error):
    model = following(shop, 1, shop.plain, shrunk(shop, shop.other))
    with pytest.raises(expert_error, match=r"model_2's features at .* are of \[4, 4\] and model_1's of \[8, 8\].* behind AFA Ensemble"):
        sample(shop.wires(model))


def test_layers_replaced_behind_the_ensemble(shop, expert_error):
    """As the host's bypass mode of LoRAs replaces them: in the first expert alone."""
    import comfy.model_management as memory
    from comfy.patcher_extension import PatcherInjection

    nothing = PatcherInjection(inject=lambda patcher: None, eject=lambda patcher: None)
    first = shop.plain.clone()
    first.set_injections("own", [nothing])
    sample(shop.wires(following(shop, 1, first, shop.other)))
    model = following(shop, 1)
    memory.unload_all_models()
    model.set_injections("bypass_lora", [nothing])
    text = refused(expert_error, lambda: sample(shop.wires(model)))
    assert "bypass mode" in text and "before AFA Ensemble Model" in text


@pytest.mark.parametrize("place", [0, 1])
def test_what_changes_guidance_on_one_checkpoint_is_named(shop, caplog, place):
    models = [shop.plain, shop.other]
    models[place] = shop.host.call("RescaleCFG", model=models[place], multiplier=0.7)[0]
    following(shop, 1, *models)
    named = [record.getMessage() for record in caplog.records if "changes guidance" in record.getMessage()]
    assert len(named) == place
    assert all("model_2" in line and "sampler_cfg_function" in line and "from model_1 alone" in line for line in named)


def test_what_wraps_the_network_of_one_checkpoint_is_named(shop, caplog):
    from comfy.patcher_extension import WrappersMP

    other = shop.other.clone()
    other.add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, "a node", lambda executor, *args, **kwargs: executor(*args, **kwargs)
    )
    following(shop, 1, shop.plain, other)
    assert (
        f"model_2 has a node that changes guidance or the whole prediction ({WrappersMP.DIFFUSION_MODEL})"
        in caplog.text
    )


class Hypernetwork:
    """As the host's: layers that its `to` moves and casts."""

    def __init__(self, width: int):
        with torch.inference_mode(False):
            self.layer = torch.nn.Linear(width, width).requires_grad_(False)

    def __deepcopy__(self, memo):
        return self

    def __call__(self, q, k, v, options):
        return q, k + 0.1 * self.layer(k), v

    def to(self, device_or_dtype):
        self.layer.to(device_or_dtype)
        return self


def test_a_patch_is_cast_to_its_own_experts_dtype(shop):
    from tests.host.test_low_memory import in_fp8

    other = shop.other.clone()
    other.set_model_attn2_patch(Hypernetwork(shop.positive[0][0].shape[-1]))
    expected = sample(shop.wires(other))
    assert not torch.equal(expected, sample(shop.wires(shop.other)))
    average = training_free(shop.host, "noise average", "0, 1")
    found = sample(shop.wires(ensemble(shop.host, average, in_fp8(shop, "tiny_sd15_a"), other)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)


def test_experts_are_trained_on_with_patches_that_read_the_step(shop):
    from afa_core.fusion.averages import StaticFusion
    from afa_core.host.experts.experts import Expert
    from afa_core.host.training.frozen_experts import HostExperts, outside_inference

    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    predictions = []
    for model in (shop.plain, shrunk(shop, shop.plain, end_percent=1.0)):
        with outside_inference():
            experts = HostExperts([Expert(model, "model_1"), Expert(shop.other, "model_2")])
            experts.load([1, 4, 8, 8])
            text = {"c_crossattn": shop.positive[0][0].clone(), "y": None}
            average = StaticFusion("noise average", (1.0, 0.0)).bind(experts.points, 2)
            predictions.append(experts.predict(average, noisy, experts.sigma(torch.tensor([0.9])), [text, text]))
    assert torch.isfinite(predictions[1]).all() and not torch.allclose(*predictions)


def test_shares_are_json_where_a_prompt_is_for_some_steps_alone(shop):
    import json

    model, routing = shop.host.call(
        "AFAEnsembleModel", aggregator=random_aggregator(shop.plain, 2), model_1=shop.plain, model_2=shop.other
    )[:2]
    half = shop.host.call("ConditioningSetTimestepRange", conditioning=shop.positive, start=0.0, end=0.5)[0]
    latent = sample(replace(shop.wires(model), positive=half).with_widgets(steps=4))
    shares = shop.host.call("AFARoutingMaps", routing=routing, samples={"samples": latent})[1]
    found = json.loads(shares, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["prompt"]
    assert found["by_step"][0] and found["by_step"][-1] is None
    assert sum(found["mean"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("sampled", [False, True])
def test_an_ensemble_is_not_saved_as_its_first_expert(shop, expert_error, sampled):
    model = following(shop, 1)
    if sampled:
        sample(shop.wires(model))
    with pytest.raises(expert_error, match="is several networks, and a file would hold model_1's alone"):
        shop.host.call("ModelSave", model=model, filename_prefix="ensemble")
    shop.host.call("ModelSave", model=shop.plain, filename_prefix="expert")
    assert torch.equal(sample(shop.wires(model)), sample(shop.wires(shop.other)))


# ---- the host's guider with two models ----


def guided(shop, model, negative_model, positive=None, negative=None):
    if "DualModelGuider" not in shop.host.nodes.NODE_CLASS_MAPPINGS:
        pytest.skip("this ComfyUI has no such guider")
    call, wires = shop.host.call, shop.wires(model)
    guider = call(
        "DualModelGuider",
        model=model,
        model_negative=negative_model,
        positive=positive or shop.positive,
        negative=negative or shop.negative,
        cfg=4.0,
    )[0]
    sigmas = call("BasicScheduler", model=shop.plain, scheduler="normal", steps=2, denoise=1.0)[0]
    sampler, noise = call("KSamplerSelect", sampler_name="euler")[0], call("RandomNoise", noise_seed=1)[0]
    return call(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=wires.latent
    )[0]["samples"]


def test_an_ensemble_with_another_model_for_the_negative_prompt(shop):
    expected = guided(shop, shop.other, shop.copies[0])
    assert torch.equal(guided(shop, following(shop, 1), shop.copies[0]), expected)


@pytest.mark.parametrize("wiring", ["two ensembles", "its own first expert", "behind another model", "behind its own first expert"])
def test_a_second_model_that_would_run_by_the_ensembles_options(shop, expert_error, wiring):
    models = {
        "two ensembles": (following(shop, 1), following(shop, 1, *shop.copies)),
        "its own first expert": (following(shop, 1), shop.plain),
        "behind another model": (shop.other, following(shop, 1, *shop.copies)),
        "behind its own first expert": (shop.plain, following(shop, 1)),
    }[wiring]
    with pytest.raises(expert_error, match="to a guider with one model"):
        guided(shop, *models)


def test_an_ensemble_for_both_prompts(shop):
    expected = guided(shop, shop.other, shop.other)
    model = following(shop, 1)
    assert torch.equal(guided(shop, model, model), expected)


# ---- prompts that a node keeps to itself ----


def perp_neg(shop, model, positive, negative):
    model = shop.host.call("PerpNeg", model=model, empty_conditioning=negative, neg_scale=1.0)[0]
    return sample(replace(shop.wires(model), positive=positive, negative=negative))


def on_both_sockets(shop, model, positive, negative):
    return guided(shop, model, model, positive, negative)


def test_a_prompt_that_a_node_keeps_to_itself_is_read_by_one_clip(shop):
    prompts = shop.positive, shop.negative
    assert torch.equal(perp_neg(shop, following(shop, 1), *prompts), perp_neg(shop, shop.other, *prompts))


@pytest.mark.parametrize("paint", [perp_neg, on_both_sockets])
def test_a_prompt_of_which_the_experts_own_texts_are_not_known(shop, expert_error, paint):
    """Every expert would read the first one's text of it."""
    cat, dog, blurry, dark = (shop.encode(text)[0][0] for text in ("a cat", "a dog", "blurry", "dark"))
    with pytest.raises(expert_error, match="keeps to itself"):
        paint(shop, following(shop, 1), text_for([cat, dog]), text_for([blurry, dark]))
