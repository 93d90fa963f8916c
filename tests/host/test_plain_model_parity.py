"""Everything that an artist does with a MODEL works on an ensemble exactly as there.

Twice: an ensemble of two copies of one checkpoint gives what that checkpoint gives, to the bit; and the average of
two different experts gives what averaging the two models' predictions inside the host's own evaluation gives.
"""

from dataclasses import replace

import pytest
import torch

from tests.support.ensembles import averaged_by_the_host, ensemble, random_aggregator
from tests.support.graphs import (
    ON_LATENT,
    ON_MODEL,
    ON_PROMPTS,
    control_net,
    freeu_v2,
    lcm_sampling,
    longer_prompt,
    lora,
    sample,
    zero_terminal_snr,
)
from tests.support.shop import Shop

PIECES = [*ON_MODEL, *ON_PROMPTS, *ON_LATENT]


@pytest.fixture(scope="module")
def shop(comfy_host, pack):
    return Shop(comfy_host)


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.__name__)
def test_twins_are_the_plain_model(shop, piece):
    expected = sample(piece(shop.wires(shop.plain)))
    assert torch.isfinite(expected).all()
    assert torch.equal(sample(piece(shop.wires(shop.twins()))), expected)


PATCHES_WEIGHTS = {"lora", "hooked_lora", "lcm_sampling", "zero_terminal_snr"}
"""Pieces that change the network itself; the reference's second network knows nothing of them."""


@pytest.mark.parametrize("piece", [p for p in PIECES if p.__name__ not in PATCHES_WEIGHTS], ids=lambda p: p.__name__)
def test_two_experts_average(shop, piece):
    """A patch that reached one expert only, or reached one twice, would show here."""
    expected = sample(piece(shop.wires(averaged_by_the_host(shop.plain, shop.other))))
    found = sample(piece(shop.wires(ensemble(shop.host, "noise average", shop.plain, shop.other))))
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    alone = sample(piece(shop.wires(shop.plain)))
    assert (alone - expected).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize(
    "sampler", ["dpmpp_2m_sde", "heun", "dpm_fast", "euler_ancestral_cfg_pp", "uni_pc", "ddim", "lcm"]
)
def test_samplers(shop, sampler):
    def run(model):
        return sample(shop.wires(model).with_widgets(sampler_name=sampler, scheduler="karras", steps=3))

    assert torch.equal(run(shop.twins()), run(shop.plain))


@pytest.mark.parametrize("scheduler", ["sgm_uniform", "ddim_uniform", "beta", "kl_optimal", "exponential"])
def test_schedulers(shop, scheduler):
    def run(model):
        return sample(shop.wires(model).with_widgets(scheduler=scheduler, steps=3))

    assert torch.equal(run(shop.twins()), run(shop.plain))


def test_two_samplers_share_the_steps(shop):
    """KSampler (Advanced) stops with leftover noise, and a second one goes on from there."""

    def run(model):
        w = shop.wires(model)
        common = {"model": model, "positive": w.positive, "negative": w.negative, "steps": 4, "cfg": 4.0}
        common |= {"sampler_name": "euler", "scheduler": "normal", "noise_seed": 5}
        half = w.call(
            "KSamplerAdvanced", add_noise="enable", latent_image=w.latent, start_at_step=0, end_at_step=2,
            return_with_leftover_noise="enable", **common,
        )  # fmt: skip
        whole = w.call(
            "KSamplerAdvanced", add_noise="disable", latent_image=half, start_at_step=2, end_at_step=10000,
            return_with_leftover_noise="disable", **common,
        )  # fmt: skip
        return half["samples"], whole["samples"]

    for found, expected in zip(run(shop.twins()), run(shop.plain), strict=True):
        assert torch.equal(found, expected)


GUIDERS = {
    "BasicGuider": lambda w: w.call("BasicGuider", model=w.model, conditioning=w.positive),
    "CFGGuider": lambda w: w.call("CFGGuider", model=w.model, positive=w.positive, negative=w.negative, cfg=6.0),
    "DualCFGGuider": lambda w: w.call(
        "DualCFGGuider", model=w.model, cond1=w.positive, cond2=longer_prompt(w).positive, negative=w.negative,
        cfg_conds=4.0, cfg_cond2_negative=3.0, style="regular",
    ),
    "PerpNegGuider": lambda w: w.call(
        "PerpNegGuider", model=w.model, positive=w.positive, negative=w.negative, cfg=4.0, neg_scale=1.0,
        empty_conditioning=w.call("ConditioningZeroOut", conditioning=w.negative),
    ),
}  # fmt: skip


def sample_with(guider, w):
    """The samples of custom sampling with one of GUIDERS."""
    sigmas = w.call("BasicScheduler", model=w.model, scheduler="simple", steps=3, denoise=1.0)
    return w.call(
        "SamplerCustomAdvanced", noise=w.call("RandomNoise", noise_seed=3), guider=GUIDERS[guider](w), sigmas=sigmas,
        sampler=w.call("KSamplerSelect", sampler_name="dpmpp_2m"), latent_image=w.latent,
    )["samples"]  # fmt: skip


@pytest.mark.parametrize("guider", list(GUIDERS))
def test_guiders_of_custom_sampling(shop, guider):
    assert torch.equal(sample_with(guider, shop.wires(shop.twins())), sample_with(guider, shop.wires(shop.plain)))


def with_area(w):
    """Half of the picture has a prompt of its own; the host copies its area to the negative prompt."""
    area = w.call("ConditioningSetAreaPercentage", conditioning=w.negative, width=0.5, height=1.0, x=0.0, y=0.0, strength=1.0)
    return replace(w, positive=w.call("ConditioningCombine", conditioning_1=w.positive, conditioning_2=area))


@pytest.mark.parametrize("wired", [lambda w: w, with_area], ids=["plain", "area"])
@pytest.mark.parametrize("guider", [name for name in GUIDERS if name != "BasicGuider"])
def test_the_record_distinguishes_the_prompt_from_other_conditionings(shop, guider, wired):
    def first_shares(guider):
        model = ensemble(shop.host, random_aggregator(shop.plain, 2), shop.plain, shop.other)
        sample_with(guider, wired(shop.wires(model)))
        (run,) = model.get_attachment("afa").record.runs
        return run.shares_by_step()[0]

    assert torch.allclose(first_shares(guider), first_shares("BasicGuider"), atol=1e-5)


def test_another_model_for_the_negative_prompt(shop):
    """As newer hosts' DualModelGuider: it gets the options of the first model, the ensemble's wrappers included."""
    import comfy.samplers
    from comfy.sampler_helpers import convert_cond

    class TwoModels(comfy.samplers.CFGGuider):
        def inner_sample(self, noise, latent_image, device, *args, **kwargs):
            shop.other.pre_run()
            conds = {"negative": convert_cond(shop.negative)}
            self.unguided = comfy.samplers.process_conds(shop.other.model, noise, conds, device)["negative"]
            return super().inner_sample(noise, latent_image, device, *args, **kwargs)

        def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
            def denoised(model, conds):
                return comfy.samplers.calc_cond_batch(model, [conds], x, timestep, model_options)[0]

            unguided = denoised(shop.other.model, self.unguided)
            return unguided + 5.0 * (denoised(self.inner_model, self.conds["positive"]) - unguided)

    @torch.inference_mode()
    def run(model):
        guider = TwoModels(model)
        guider.inner_set_conds({"positive": shop.positive})
        latent = torch.zeros(1, 4, 8, 8)
        return guider.sample(latent + 1, latent, comfy.samplers.sampler_object("euler"), torch.tensor([9.0, 1.0, 0.0]))

    expected = run(shop.plain)
    assert torch.equal(run(shop.twins()), expected)
    assert not torch.equal(run(shop.other), expected)


def test_one_ensemble_samples_twice_in_a_graph(shop):
    """A second pass over an enlarged latent, then the whole graph once more."""

    def run(model):
        w = shop.wires(model)
        first = sample(w)
        larger = w.call("LatentUpscaleBy", samples={"samples": first}, upscale_method="bilinear", scale_by=1.5)
        second = sample(replace(control_net(freeu_v2(w)), latent=larger).with_widgets(denoise=0.5, steps=4))
        return first, second

    twins = shop.twins()
    expected = run(shop.plain)
    for _ in range(2):
        for found, plain in zip(run(twins), expected, strict=True):
            assert torch.equal(found, plain)


def test_a_scheduled_lora_that_always_holds_is_a_lora(shop):
    """With two different experts: the hook patches the second one's weights as well."""

    def run(wire):
        return sample(wire(shop.wires(ensemble(shop.host, "block average", shop.plain, shop.other))))

    def hooked(w):
        hook = w.call("CreateHookLora", lora_name=w.lora, strength_model=0.8, strength_clip=0.0)
        both = w.host.call(
            "PairConditioningSetProperties", positive_NEW=w.positive, negative_NEW=w.negative, strength=1.0,
            set_cond_area="default", hooks=hook,
        )  # fmt: skip
        return replace(w, positive=both[0], negative=both[1])

    expected = run(lora)
    assert torch.equal(run(hooked), expected)
    assert not torch.equal(run(lambda w: w), expected)


@pytest.mark.parametrize("piece", [zero_terminal_snr, lcm_sampling, lora], ids=lambda piece: piece.__name__)
def test_what_is_put_on_the_ensemble_is_put_on_every_expert(shop, piece):
    def run(wires):
        return sample(wires)

    models = [shop.plain, shop.other]
    behind = run(piece(shop.wires(ensemble(shop.host, "block average", *models))))
    patched = [piece(shop.wires(model)) for model in models]
    before = run(replace(patched[0], model=ensemble(shop.host, "block average", *(w.model for w in patched))))
    assert torch.equal(behind, before)
