"""Experts that predict noise, velocity, or one of each: what they say is compared in what they denoise to."""

from dataclasses import replace

import pytest
import torch

from tests.support.ensembles import averaged_by_the_host, certain_aggregator, ensemble, random_aggregator, training_free
from tests.support.graphs import sample, zero_terminal_snr
from tests.support.refusing import refused
from tests.support.shop import Shop


@pytest.fixture(scope="module")
def shop(comfy_host, pack):
    shop = Shop(comfy_host)
    shop.velocity = shop.load("tiny_sd15_v")[0]
    return shop


def test_velocity_experts_among_themselves(shop):
    twin = shop.load("tiny_sd15_v")[0]
    model = ensemble(shop.host, random_aggregator(shop.velocity, 2), shop.velocity, twin)
    assert torch.equal(sample(shop.wires(model)), sample(shop.wires(shop.velocity)))


@pytest.mark.parametrize("order", ["eps first", "v first"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_noise_and_velocity_meet_in_what_they_denoise_to(shop, order, share):
    """At every evaluation of a sampler, also with its own timestep for every sample of a batch."""
    models = [shop.plain, shop.velocity] if order == "eps first" else [shop.velocity, shop.plain]
    fusion = training_free(shop.host, "noise average", f"{share}, {1 - share}")
    found = sample(shop.wires(ensemble(shop.host, fusion, *models)).with_widgets(steps=4))
    expected = sample(shop.wires(averaged_by_the_host(*models, share)).with_widgets(steps=4))
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (found - sample(shop.wires(models[0]).with_widgets(steps=4))).abs().max() > 0.1


def test_min_snr_weighs_a_loss_by_what_is_predicted(shop):
    """The two weights that the paper gives for noise and for v (arXiv 2303.09556, section 3.4)."""
    from afa_core.host.experts.experts import Expert
    from afa_core.host.training.frozen_experts import HostExperts
    from afa_core.training.objective import snr_weight

    gamma = 5.0
    for model, weight in (
        (shop.plain, lambda snr: snr.clamp(max=gamma) / snr),
        (shop.velocity, lambda snr: snr.clamp(max=gamma) / (snr + 1)),
    ):
        experts = HostExperts([Expert(model, "model_1")])
        sigma = experts.sigma(torch.tensor([0.01, 0.3, 0.6, 0.99]))
        snr = experts.snr(sigma)
        assert snr[0] > gamma > snr[-1]
        torch.testing.assert_close(snr_weight(experts, sigma, gamma), weight(snr))


@pytest.mark.parametrize("chosen", [0, 1])
@pytest.mark.parametrize("order", ["eps first", "v first"])
def test_one_of_two_kinds_alone(shop, order, chosen):
    models = [shop.plain, shop.velocity] if order == "eps first" else [shop.velocity, shop.plain]
    model = ensemble(shop.host, certain_aggregator(shop.plain, 2, chosen), *models)
    found = sample(shop.wires(model).with_widgets(steps=3))
    expected = sample(shop.wires(models[chosen]).with_widgets(steps=3))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


def test_kinds_by_a_node_instead_of_the_checkpoint(shop):
    """What ModelSamplingDiscrete says of an expert holds, whatever its file says."""
    stated = shop.host.call("ModelSamplingDiscrete", model=shop.other, sampling="v_prediction", zsnr=False)[0]
    found = sample(shop.wires(ensemble(shop.host, "noise average", shop.plain, stated)))
    w = shop.wires(shop.plain)
    untold = sample(shop.wires(ensemble(shop.host, "noise average", shop.plain, shop.other)))
    assert not torch.allclose(found, untold, atol=0.1)
    alone = training_free(shop.host, "noise average", "0, 1")
    followed = sample(replace(w, model=ensemble(shop.host, alone, shop.plain, stated)))
    torch.testing.assert_close(followed, sample(replace(w, model=stated)), rtol=1e-3, atol=2e-3)


def test_a_kind_behind_an_ensemble_of_two_kinds(shop, expert_error):
    model = zero_terminal_snr(shop.wires(ensemble(shop.host, "noise average", shop.plain, shop.velocity))).model
    text = refused(expert_error, lambda: sample(shop.wires(model)))
    assert "(model_1 eps, model_2 v_prediction)" in text


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("node", ["ModelSamplingSD3", "ModelSamplingAuraFlow"])
def test_unets_that_were_tuned_to_straight_paths(shop, node, place):
    """As SDXL fine-tunes with rectified flow, which a node declares."""

    def put(model):
        return shop.host.call(node, model=model, shift=2.5)[0]

    aggregator = certain_aggregator(shop.plain, 2, 1)
    if place == "before":
        model = ensemble(shop.host, aggregator, put(shop.plain), put(shop.other))
    else:
        model = put(ensemble(shop.host, aggregator, shop.plain, shop.other))
    assert torch.equal(sample(shop.wires(model)), sample(shop.wires(put(shop.other))))


def test_an_expert_with_another_noise_schedule_keeps_its_own_timesteps(shop):
    """Zero terminal SNR moves every noise level: the expert gets the timestep that this level has for it."""
    stated = zero_terminal_snr(shop.wires(shop.velocity)).model
    alone = training_free(shop.host, "noise average", "0, 1")
    sigmas = shop.host.call("BasicScheduler", model=shop.plain, scheduler="normal", steps=3, denoise=1.0)[0]

    def run(model):
        w = shop.wires(model)
        return w.call(
            "SamplerCustom", model=model, add_noise=True, noise_seed=1, cfg=4.0, positive=w.positive,
            negative=w.negative, sampler=w.call("KSamplerSelect", sampler_name="euler"), sigmas=sigmas,
            latent_image=w.latent,
        )["samples"]  # fmt: skip

    found = run(ensemble(shop.host, alone, shop.plain, stated))
    # Only how the first noise is scaled hangs on the schedule of the model in front, so both start from model_1's.
    expected = run(averaged_by_the_host(shop.plain, Patched(stated), 0.0))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


class Patched:
    """A model with the object patches of its patcher in place whenever it is evaluated."""

    def __init__(self, patcher):
        self.patcher, self.model = patcher, self

    def apply_model(self, *args, **kwargs):
        self.patcher.patch_model(load_weights=False)
        try:
            return self.patcher.model.apply_model(*args, **kwargs)
        finally:
            self.patcher.unpatch_model(unpatch_weights=False)


@pytest.mark.parametrize(
    ("node", "widgets", "entries"),
    [
        ("ModelSamplingDiscrete", {"sampling": "eps", "zsnr": False}, 1000),
        ("ModelSamplingDiscrete", {"sampling": "lcm", "zsnr": False}, 50),
        ("ModelSamplingContinuousEDM", {"sampling": "edm_playground_v2.5", "sigma_max": 120.0, "sigma_min": 0.002}, 1000),
    ],
)
def test_noise_levels_are_fractions_whatever_the_timesteps_mean(shop, node, widgets, entries):
    """LCM knows 50 of the 1,000 timesteps, and EDM's networks are given a logarithm in place of one."""
    from afa_core.host.architectures.noise import level_of, sigma_of

    sampling = shop.host.call(node, model=shop.plain, **widgets)[0].get_model_object("model_sampling")
    levels = torch.linspace(0.02, 0.99, 98)
    sigma = sigma_of(sampling, levels)
    assert (sigma > 0).all() and (sigma.diff() > 0).all()
    assert (level_of(sampling, sigma) - levels).abs().max() <= 0.5 / entries + 1e-6
    if node == "ModelSamplingDiscrete":  # as the network is told; of a plain table to the bit
        exact = {} if entries == 50 else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(level_of(sampling, sigma), sampling.timestep(sigma) / 1000, **exact)
        torch.testing.assert_close(sigma, sampling.sigma((levels * 1000).round(decimals=3)), **exact)
