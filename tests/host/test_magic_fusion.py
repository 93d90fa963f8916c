"""MagicFusion: the maths against a plain reference written from the paper's text, and the node on the host."""

import math

import numpy as np
import pytest
import torch

from afa_core.fusion.fusion import FusionError
from afa_core.fusion.magic import MODES, REFERENCES, MagicFusion, saliency
from tests.support import transformers


def noises(models, height, width, batch=2, channels=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, channels, height, width, generator=generator) for _ in range(models)]


# ---- the reference: loops, one picture, one number at a time ----


def reference_saliency(response):
    """S [H, W] of R [C, H, W]: window of 4 x 4 over a border of zeros, back to size by bilinear weights, mean of channels."""
    channels, height, width = response.shape
    total = np.zeros((height, width))
    for c in range(channels):
        padded = np.zeros((height + 2, width + 2))
        padded[1:-1, 1:-1] = np.abs(response[c])
        small = np.array(
            [[padded[i : i + 4, j : j + 4].sum() / 16 for j in range(width - 1)] for i in range(height - 1)]
        )
        for y in range(height):
            for x in range(width):
                # Pixel centres: position y of H maps to (y + 1/2) (H-1)/H - 1/2 of H-1.
                v = min(max((y + 0.5) * (height - 1) / height - 0.5, 0), height - 2)
                u = min(max((x + 0.5) * (width - 1) / width - 0.5, 0), width - 2)
                top, left = int(v), int(u)
                bottom, right = min(top + 1, height - 2), min(left + 1, width - 2)
                a, b = v - top, u - left
                upper = small[top, left] * (1 - b) + small[top, right] * b
                lower = small[bottom, left] * (1 - b) + small[bottom, right] * b
                total[y, x] += (upper * (1 - a) + lower * a) / channels
    return total


def reference_mask(guided, unguided, scale, temperatures, own):
    """The winner's index by position for one picture; guided and unguided are lists of [C, H, W]."""
    maps = []
    for n, k in enumerate(temperatures):
        s = k * reference_saliency(scale * (guided[n] - unguided[n if own else 0]))
        p = np.exp(s - s.max())
        maps.append(p / p.sum())
    height, width = maps[0].shape
    mask = np.zeros((height, width), dtype=int)
    for y in range(height):
        for x in range(width):
            for n in range(1, len(maps)):
                if maps[n][y, x] > maps[mask[y, x]][y, x]:
                    mask[y, x] = n
    return mask


# ---- the maths ----


def test_saliency_is_the_papers():
    response = noises(1, 11, 14)[0]
    for picture, found in zip(response, saliency(response), strict=True):
        np.testing.assert_allclose(found.numpy(), reference_saliency(picture.numpy()), rtol=1e-5)


@pytest.mark.parametrize(("models", "temperatures"), [(2, (1.0, 1.0)), (2, (0.5, 2.0)), (3, (1.0, 1.5, 0.7))])
@pytest.mark.parametrize("reference", REFERENCES)
def test_the_mask_is_the_papers(models, temperatures, reference):
    guided, unguided = noises(models, 9, 12, seed=1), noises(models, 9, 12, seed=2)
    fusion = MagicFusion(temperatures, reference=reference)
    shares = fusion.shares(guided, unguided, 7.5)
    assert shares.shape == (2, models, 9, 12)
    assert set(shares.unique().tolist()) == {0.0, 1.0}
    assert (shares.sum(1) == 1).all()
    for i in range(2):
        mask = reference_mask(
            [g[i].numpy() for g in guided],
            [u[i].numpy() for u in unguided],
            7.5,
            temperatures,
            reference == "each its own",
        )
        assert np.array_equal(shares[i].argmax(0).numpy(), mask)


def test_equal_models_are_model_1():
    guided, unguided = noises(1, 8, 8) * 3, noises(1, 8, 8, seed=5) * 3
    shares = MagicFusion((1.0, 1.0, 1.0)).shares(guided, unguided, 7.0)
    assert (shares[:, 0] == 1).all()


def test_large_temperatures_do_not_underflow():
    guided, unguided = noises(2, 16, 16), noises(2, 16, 16, seed=5)
    shares = MagicFusion((1e4, 1e4)).shares(guided, unguided, 10.0)
    assert torch.isfinite(shares).all()
    assert 0 < shares[:, 1].mean() < 1


def test_softness_blends_and_hardens_in_the_limit():
    guided, unguided = noises(3, 8, 8), noises(3, 8, 8, seed=5)
    temperatures = (1.0, 1.0, 1.0)
    hard = MagicFusion(temperatures).shares(guided, unguided, 5.0)
    nearly = MagicFusion(temperatures, softness=1e-4).shares(guided, unguided, 5.0)
    soft = MagicFusion(temperatures, softness=100.0).shares(guided, unguided, 5.0)
    torch.testing.assert_close(nearly, hard, atol=0.05, rtol=0)
    torch.testing.assert_close(soft, torch.full_like(soft, 1 / 3), atol=0.05, rtol=0)
    torch.testing.assert_close(soft.sum(1), torch.ones(2, 8, 8))


def test_the_window_grows_with_the_picture():
    spot = torch.zeros(1, 4, 128, 128)
    spot[:, :, 64, 64] = 1
    reach = [(saliency(spot, kernel) > 0).sum().item() for kernel in (4, 8)]
    assert reach[1] > 3 * reach[0]


def test_modes():
    always, first, last = (MagicFusion(mode=mode, switch_timestep=600) for mode in MODES)
    assert [always.fuses_at(t) for t in (999, 601, 600, 0)] == [True, True, True, True]
    assert [first.fuses_at(t) for t in (999, 601, 600, 0)] == [False, False, True, True]
    assert [last.fuses_at(t) for t in (999, 601, 600, 0)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"mode": "never"}, "mode"), ({"reference": "nobody"}, "reference"), ({"temperatures": (1.0, 0.0)}, "above 0"),
     ({"temperatures": (math.nan, 1.0)}, "above 0")],
)  # fmt: skip
def test_bad_settings_are_reported(settings, words):
    with pytest.raises(FusionError, match=words):
        MagicFusion(**settings)


# ---- on the host ----


@pytest.fixture
def magic(pack, comfy_host):
    def make(models, ensemble=None, **settings):
        aggregator = comfy_host.call("AFATrainingFreeFusion", method="magic fusion", **settings)[0]
        sockets = {f"model_{i}": model for i, model in enumerate(models, start=1)}
        return comfy_host.call("AFAEnsembleModel", aggregator=aggregator, **sockets, **(ensemble or {}))

    return make


def noise_prediction(comfy_host, model, cond, x, sigma):
    """eps of one conditioning by the host's own means, for a model that is already loaded."""
    import comfy.samplers
    from comfy.sampler_helpers import convert_cond

    conds = comfy.samplers.process_conds(model.model, x, {"positive": convert_cond(cond)}, x.device)["positive"]
    model.pre_run()
    denoised = comfy.samplers.calc_cond_batch(model.model, [conds], x, sigma, model.model_options)[0]
    return (x - denoised) / sigma


@pytest.mark.parametrize("cfg", [7.0, 1.0])
def test_one_step_is_the_papers(comfy_host, checkpoint, encode, magic, cfg):
    """A step to sigma 0 returns the fused x0: compared with the reference on the two models' own predictions."""
    import comfy.model_management
    import comfy.sample
    import comfy.samplers

    names = ("tiny_sd15_a", "tiny_sd15_b")
    (a, clip, _), (b, *_) = (checkpoint(name) for name in names)
    positive, negative = encode(clip, "a cat"), encode(clip, "")
    with torch.inference_mode():
        sigma = a.model.model_sampling.sigma(torch.tensor(400.0))
        x = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(3)) * sigma
        guided, unguided = [], []
        for model in (a, b):
            comfy.model_management.load_models_gpu([model])
            guided.append(noise_prediction(comfy_host, model, positive, x, sigma.view(1)))
            unguided.append(noise_prediction(comfy_host, model, negative, x, sigma.view(1)))
        mask = reference_mask([g[0].numpy() for g in guided], [u[0].numpy() for u in unguided], cfg, (1.0, 1.0), False)
        assert 0 < mask.mean() < 1
        eps = [u + cfg * (g - u) for g, u in zip(guided, unguided, strict=True)]
        expected = x - sigma * torch.where(torch.from_numpy(mask == 1), eps[1], eps[0])

        ensemble = magic((a, b))[0]
        guider = comfy.samplers.CFGGuider(ensemble)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        sampler = comfy.samplers.sampler_object("euler")
        # Euler from sigma to 0 ends at the denoised latent.
        sigmas = torch.tensor([sigma, 0.0])
        noise = x / sigma
        found = guider.sample(noise, torch.zeros_like(x), sampler, sigmas)
    found = a.model.process_latent_in(found)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_same_model_twice_is_that_model(checkpoint, encode, sample, magic):
    (a, clip, _), twin = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_a")[0]
    positive, negative = encode(clip, "a cat"), encode(clip, "blurry")
    alone = sample(a, positive, negative)
    assert torch.equal(sample(magic((a, twin))[0], positive, negative), alone)


def test_outside_its_range_model_1_runs_alone(checkpoint, encode, sample, magic):
    (a, clip, _), b = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")[0]
    positive, negative = encode(clip, "a cat"), encode(clip, "")
    alone = sample(a, positive, negative)
    everywhere = sample(magic((a, b))[0], positive, negative)
    never = {"mode": MODES[2], "switch_timestep": 999}
    late = {"mode": MODES[1], "switch_timestep": 600}
    assert not torch.equal(everywhere, alone)
    assert torch.equal(sample(magic((a, b), **never)[0], positive, negative), alone)
    assert torch.equal(sample(magic((a, b), {"start_percent": 1.0})[0], positive, negative), alone)
    partly = sample(magic((a, b), **late)[0], positive, negative)
    assert not torch.equal(partly, alone)
    assert not torch.equal(partly, everywhere)


def test_every_kind_of_checkpoint(checkpoint, encode, sample, magic):
    """Three experts, one of them a v-prediction model; SDXL; a batch; a conditioning with an area; each its own text."""
    (a, clip, _), b, v = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")[0], checkpoint("tiny_sd15_v")[0]
    positive, negative = encode(clip, "a cat"), encode(clip, "")
    ensemble, routing = magic((a, b, v))
    one = sample(ensemble, positive, negative)
    assert torch.isfinite(one).all()
    assert sum(routing.runs[-1].summary()["prompt"]["mean"]) == pytest.approx(1)
    area = [[tensor, {**extras, "area": (4, 8, 0, 0), "strength": 1.0}] for tensor, extras in positive]
    assert not torch.equal(sample(ensemble, area + positive, negative), one)

    (xl, xl_clip, _), other = checkpoint("tiny_sdxl_a"), checkpoint("tiny_sdxl_b")[0]
    assert torch.isfinite(sample(magic((xl, other))[0], encode(xl_clip, "a cat"), encode(xl_clip, ""))).all()


@pytest.mark.parametrize("family", transformers.FAMILIES)
def test_transformers(comfy_host, magic, family):
    """Of a batch of two; latents of some families have a dimension of frames."""
    a, b = (transformers.load(comfy_host, f"tiny_{family}_{letter}") for letter in "ab")
    latent = comfy_host.call("EmptySD3LatentImage", width=64, height=96, batch_size=2)[0]["samples"]

    def painted(model):
        return transformers.sample(comfy_host, model, a, latent=latent)

    alone, other = painted(a.patcher), painted(b.patcher)
    assert torch.equal(painted(magic((a.patcher, a.patcher.clone()))[0]), alone)
    blended = painted(magic((a.patcher, b.patcher))[0])
    assert torch.isfinite(blended).all() and not torch.equal(blended, alone) and not torch.equal(blended, other)


def test_each_expert_reads_its_own_text(comfy_host, checkpoint, encode, sample, magic):
    (a, clip_a, _), (b, clip_b, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")
    ensemble = magic((a, b))[0]
    both = comfy_host.call("AFAEnsembleCLIP", clip_1=clip_a, clip_2=clip_b)[0]
    own = sample(ensemble, encode(both, "a cat"), encode(both, ""))
    shared = sample(ensemble, encode(clip_a, "a cat"), encode(clip_a, ""))
    assert not torch.equal(own, shared)


GUIDERS = {
    "no negative prompt": lambda call, model, cond: call("BasicGuider", model=model, conditioning=cond),
    "3 prompts": lambda call, model, cond: call(
        "PerpNegGuider", model=model, positive=cond, negative=cond, empty_conditioning=cond, cfg=4.0, neg_scale=1.0
    ),
    "Guider_DualCFG": lambda call, model, cond: call(
        "DualCFGGuider", model=model, cond1=cond, cond2=cond, negative=cond, cfg_conds=4.0, cfg_cond2_negative=3.0,
        style="regular",
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", list(GUIDERS))
def test_other_guidance_is_reported(comfy_host, checkpoint, encode, magic, words):
    (a, clip, _), b = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")[0]
    guider = GUIDERS[words](comfy_host.call, magic((a, b))[0], encode(clip, "a cat"))[0]
    latent = torch.zeros(1, 4, 8, 8)
    import comfy.samplers

    with torch.inference_mode(), pytest.raises(FusionError, match=f"{words}.*use a sampler with positive, negative"):
        guider.sample(latent + 1, latent, comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.0]))


def test_as_many_temperatures_as_models(checkpoint, magic):
    models = [checkpoint("tiny_sd15_a")[0], checkpoint("tiny_sd15_b")[0]]
    with pytest.raises(FusionError, match="3 temperatures, but 2 models"):
        magic(models, temperatures="1, 1, 2")
    with pytest.raises(ValueError, match="should be numbers"):
        magic(models, temperatures="warm")
