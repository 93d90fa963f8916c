"""Weights by noise level in the host's sampling: to the bit what their special cases are."""

from dataclasses import replace

import pytest
import torch

from afa_core.fusion.levels import LevelFusion
from tests.support.ensembles import ensemble, training_free
from tests.support.graphs import sample
from tests.support.shop import Shop


@pytest.fixture(scope="module")
def parts(comfy_host, pack):
    """(a, b, wires): two checkpoints, and a graph around the first."""
    shop = Shop(comfy_host)
    a, b = (shop.load(f"tiny_sd15_{name}")[0] for name in "ab")
    return a, b, shop.wires(a)


def through(wires, model):
    return sample(replace(wires, model=model).with_widgets(steps=4))


def test_all_the_weight_on_one_expert(parts, comfy_host):
    a, b, wires = parts
    for chosen, row in enumerate([(1.0, 0.0), (0.0, 1.0)]):
        found = through(wires, ensemble(comfy_host, LevelFusion((0.1, 0.9), (row, row)), a, b))
        assert torch.equal(found, through(wires, [a, b][chosen]))


def test_equal_shares_are_the_noise_average(parts, comfy_host):
    a, b, wires = parts
    found = through(wires, ensemble(comfy_host, LevelFusion((0.1, 0.9), ((0.5, 0.5), (0.5, 0.5))), a, b))
    assert torch.equal(found, through(wires, ensemble(comfy_host, training_free(comfy_host, "noise average"), a, b)))


def test_one_expert_for_the_outlines_and_one_for_the_details(parts, comfy_host):
    """As the host's own nodes switch between the two at the step after level 0.5."""
    a, b, wires = parts
    switched = LevelFusion((0.499, 0.5), ((0.0, 1.0), (1.0, 0.0)))
    found = through(wires, ensemble(comfy_host, switched, a, b))
    sampling = a.get_model_object("model_sampling")
    sigmas = comfy_host.call("BasicScheduler", model=a, scheduler="normal", steps=4, denoise=1.0)[0]
    step = sum(sampling.timestep(sigma) / 1000 >= 0.5 for sigma in sigmas[:-1])
    assert 0 < step < 4

    def part(model, latent, start, end, **widgets):
        links = {"positive": wires.positive, "negative": wires.negative, "latent_image": latent}
        return comfy_host.call(
            "KSamplerAdvanced", model=model, noise_seed=1, steps=4, cfg=5.0, sampler_name="euler", scheduler="normal",
            start_at_step=start, end_at_step=end, **links, **widgets,
        )[0]  # fmt: skip

    first = part(a, wires.latent, 0, int(step), add_noise="enable", return_with_leftover_noise="enable")
    last = part(b, first, int(step), 4, add_noise="disable", return_with_leftover_noise="disable")
    torch.testing.assert_close(found, last["samples"], atol=1e-4, rtol=1e-4)
