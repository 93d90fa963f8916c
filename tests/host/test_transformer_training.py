"""Aggregators learn on transformers: on flow models, with gradients through the host's blocks."""

import math

import pytest
import torch

from tests.support.ensembles import random_aggregator
from tests.support.transformers import FAMILIES, conditioning, load

SHIFTS = {"lumina": 6.0, "zimage": 3.0, "anima": 3.0}
"""How far the families move their levels towards noise; the others are trained with that of Flux."""


@pytest.fixture(scope="module", params=FAMILIES)
def cases(request, comfy_host):
    return [load(comfy_host, f"tiny_{request.param}_{letter}") for letter in "ab"]


def experts_of(cases, checkpointing):
    from afa_core.host.experts.experts import Expert
    from afa_core.host.training.frozen_experts import HostExperts

    experts = HostExperts([Expert(c.patcher, f"model_{i}") for i, c in enumerate(cases, start=1)], checkpointing)
    experts.load([2, 16, 8, 6])
    return experts


def texts_of(cases, experts):
    from afa_core.host.training.captions import for_network, network_text

    (cond, extras) = conditioning(cases[0], 3)[0]
    known = {name: value for name, value in extras.items() if torch.is_tensor(value)}
    texts = [network_text(expert, *for_network(expert, cond, known), (8, 6)) for expert in experts.experts]
    return [{name: torch.cat([tensor, tensor]) for name, tensor in text.items()} for text in texts]


def losses(cases, checkpointing=False, identity_bias=False):
    """Of one batch, with the gradient of every parameter of a random aggregator by name."""
    from afa_core.aggregator.sabw import Aggregator
    from afa_core.fusion.sabw_fusion import SABWFusion
    from afa_core.host.training.frozen_experts import outside_inference

    file = random_aggregator(cases[0].patcher, 2, identity_bias=identity_bias)
    with outside_inference():
        experts = experts_of(cases, checkpointing)
        aggregator = Aggregator(file.config)
        aggregator.load_state_dict({key: tensor.clone() for key, tensor in file.state.items()})
        random = torch.Generator().manual_seed(4)
        latents, noise = (torch.randn(2, 16, 8, 6, generator=random) for _ in range(2))
        sigma = experts.sigma(torch.tensor([0.3, 0.9]))
        noisy = experts.noised(latents, noise, sigma)
        prediction = experts.predict(SABWFusion(aggregator), noisy, sigma, texts_of(cases, experts))
        loss = (prediction - experts.target(latents, noisy, sigma)).square().mean()
        loss.backward()
    return loss.detach(), {name: p.grad for name, p in aggregator.named_parameters()}, experts


@pytest.mark.parametrize("identity_bias", [False, True])
def test_every_parameter_learns_and_recomputing_changes_nothing(cases, identity_bias):
    loss, gradients, _ = losses(cases, identity_bias=identity_bias)
    assert torch.isfinite(loss)
    assert not [name for name, g in gradients.items() if g is None or not torch.isfinite(g).all()]
    silent = [name for name, g in gradients.items() if not g.any()]
    assert not silent
    assert any(name.endswith("identity_bias") for name in gradients) == identity_bias
    again, recomputed, _ = losses(cases, checkpointing=True, identity_bias=identity_bias)
    assert torch.equal(loss, again)
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7)


def test_levels_of_noise(cases):
    """A level is a fraction of the model's own range, with its shift; the target is what denoises to the picture."""
    _, _, experts = losses(cases)
    sampling = experts.experts[0].patcher.model.model_sampling
    levels = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.999])
    sigma = experts.sigma(levels)
    assert (sigma.diff() > 0).all()
    shift = SHIFTS.get(cases[0].family, math.exp(1.15))
    shifted = shift * levels / (1 + (shift - 1) * levels) if cases[0].family != "cosmos" else levels / (1 - levels)
    torch.testing.assert_close(sigma[1:-1], shifted[1:-1], rtol=1e-4, atol=0)
    assert float(sampling.sigma_min) <= sigma[0]
    assert sigma[-1] <= float(sampling.sigma_max)
    latents, noise = torch.randn(5, 16, 4, 4), torch.randn(5, 16, 4, 4)
    noisy = experts.noised(latents, noise, sigma)
    target = experts.target(latents, noisy, sigma)
    assert torch.isfinite(target).all()
    torch.testing.assert_close(experts.denoised(target, noisy, sigma), latents, rtol=1e-3, atol=1e-3)
    # Of every family, also where noise is added to the picture: what is scaled down is on the straight path then.
    torch.testing.assert_close(target[1:], (noise - latents)[1:], rtol=1e-3, atol=1e-3)
    snr = experts.snr(sigma)
    assert (snr.diff() < 0).all()


def test_a_network_that_adapts_its_prompt_does_so_for_training(comfy_host, monkeypatch):
    """Newer hosts run Anima's adapter in inference mode only; what comes of it must be fit for gradients."""
    from afa_core.host.experts.experts import Expert
    from afa_core.host.training.captions import adapted, network_text

    case = load(comfy_host, "tiny_cosmos_a")
    modes = []
    host_conds = case.model.extra_conds

    def extra_conds(**kwargs):
        modes.append(torch.is_inference_mode_enabled())
        return host_conds(**{**kwargs, "cross_attn": 2 * kwargs["cross_attn"]})

    monkeypatch.setattr(case.model, "extra_conds", extra_conds)
    text, expert = torch.randn(1, 6, 48), Expert(case.patcher, "model_1")
    with torch.inference_mode(False):
        plain = network_text(expert, text, {}, (8, 6))["c_crossattn"]
        found = network_text(expert, adapted(expert, text, {}), {}, (8, 6))["c_crossattn"]
    assert modes == [False, True, False]
    assert torch.equal(found, 2 * plain)
    assert not found.is_inference()


def test_captions_of_other_lengths_change_nothing(cases):
    """A dropped caption in the batch: every picture is predicted as by itself."""
    from afa_core.fusion.averages import StaticFusion
    from afa_core.host.training.frozen_experts import outside_inference
    from afa_core.training.data.texts import joined, of_rows

    with outside_inference(), torch.no_grad():
        experts = experts_of(cases, checkpointing=False)
        texts = texts_of(cases, experts)
        short = [{name: part[:1, :3] if part.ndim == 3 else part[:1] for name, part in text.items()} for text in texts]
        rows = zip(texts, short, strict=True)
        mixed = [joined([of_rows(text, [0]), row, of_rows(text, [0])]) for text, row in rows]
        fusion = StaticFusion("block average").bind(experts.points, 2)
        noisy = torch.randn(3, 16, 8, 6, generator=torch.Generator().manual_seed(1))
        sigma = experts.sigma(torch.tensor([0.3, 0.5, 0.7]))
        found = experts.predict(fusion, noisy, sigma, mixed)
        for i in range(3):
            alone = experts.predict(fusion, noisy[i : i + 1], sigma[i : i + 1], [of_rows(text, [i]) for text in mixed])
            torch.testing.assert_close(found[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_anima_s_adapter_reads_each_caption_once(comfy_host, pack, monkeypatch):
    from afa_core.host.experts.experts import Expert
    from afa_core.host.training.cache import Cache
    from afa_core.host.training.captions import TextEncoder

    cases = [load(comfy_host, f"tiny_anima_{letter}") for letter in "ab"]
    inputs = {"clip_name": "tiny_qwen3_06b.safetensors", "type": "stable_diffusion", "device": "default"}
    clip = comfy_host.call("CLIPLoader", **inputs)[0]
    encoder = TextEncoder([Expert(case.patcher, case.name) for case in cases], clip, Cache())
    captions, adapted = ["", "a cat", "a cat that sits on a mat in the sun"], []
    real = cases[0].network.preprocess_text_embeds
    monkeypatch.setattr(cases[0].network, "preprocess_text_embeds", lambda *a, **k: adapted.append(1) or real(*a, **k))
    for _ in range(2):
        encoder.encode(captions, lambda: None)
        texts = [encoder.text(0, caption, (8, 6))["c_crossattn"] for caption in captions]
    assert len(adapted) == len(captions)
    assert {encoder.length(caption) for caption in captions} == {texts[0].shape[1]}  # they are padded, so they batch
    assert not torch.equal(texts[1], texts[2]) and not texts[1].is_inference()
