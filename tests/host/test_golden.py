"""The authors' own numbers: golden cases from checkpoint files, through the nodes and a real sampler step."""

import pytest
import torch

from afa_core.fusion.fusion import Embeddings, FusionState
from afa_core.fusion.lockstep import lockstep
from tests.golden.goldweights import materialise
from tests.support.ensembles import ensemble, spy_on, untrained
from tests.support.golden_cases import Case, denoised, euler_step, noisy_latent

SAMPLE, FUSED = 5e-5, 2e-4
"""Tolerances of tests/golden/README.md, with the host's default attention."""


@pytest.fixture
def golden(pack, comfy_host, checkpoint):
    """golden("case_a") -> (case, the ensemble made by the nodes, the experts' models)."""

    def build(name, conv_out=True):
        case = Case(name)
        materialise(name, str(comfy_host.base / "models" / "afa" / name))
        (aggregator,) = comfy_host.call("LoadAFAAggregator", aggregator_name=name)
        if not conv_out:
            aggregator = untrained(aggregator)
        experts = [checkpoint(f"golden_{i}")[0] for i in case.experts]
        return case, ensemble(comfy_host, aggregator, *experts), experts

    return build


def guided_sampling(host, case: Case, model) -> torch.Tensor:
    """The model's predictions [B, 4, H, W] in one evaluation of a sampler, whatever the timesteps of the batch."""
    import comfy.samplers

    sigma, latent = noisy_latent(case, model)
    seen = []

    class OneEvaluation(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *rest):
            result = model_wrap(latent_image, sigma, model_options=extra_args["model_options"], seed=extra_args["seed"])
            seen.append((latent_image - result) / sigma.reshape(-1, 1, 1, 1))
            return result

    (guider,) = host.call("BasicGuider", model=model, conditioning=case.texts())
    (noise,) = host.call("DisableNoise")
    host.call(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=OneEvaluation(),
        sigmas=torch.tensor([sigma.max().item(), 0.0]), latent_image=latent,
    )  # fmt: skip
    return seen[0]


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def check_inside(case: Case, spy, tolerances=(SAMPLE, FUSED)) -> None:
    """Everything that the aggregators met and decided, against the authors' record."""
    sample, fused = tolerances
    close(spy.fused[24], case["sample"], sample)
    close(spy.state.mean_time, case["temb_mean"], sample)
    close(spy.state.mean_text, case["text_mean"], sample)
    for j, time in enumerate(own.time for own in spy.state.embeddings):
        close(time, case[f"temb_{j}"], sample)
    assert sorted(spy.fused) == sorted(spy.shares) == list(range(25))
    for i in range(25):
        close(spy.shares[i], case[f"attn_map_{i:02}"], sample)
        close(spy.fused[i], case[f"fused_{i:02}"], fused)
        if f"agg_in_{i:02}" in case.tensors:
            close(torch.stack(spy.features[i], dim=1), case[f"agg_in_{i:02}"], fused)


def test_case_a_as_the_two_sides_of_guidance(golden, comfy_host):
    """One latent with two texts is what guidance evaluates; the host puts the negative side first."""
    case, model, _ = golden("case_a")
    spy = spy_on(model)
    positive, negative = case.texts(slice(1, 2)), case.texts(slice(0, 1))
    found = euler_step(comfy_host, model, case, positive, negative, cfg=2.0, samples=slice(0, 1))
    check_inside(case, spy)
    without, prompted = denoised(case, model, case["sample"]).chunk(2)
    close(found, without + 2.0 * (prompted - without), 2e-4)


def test_case_b_three_experts_on_a_wide_latent(golden, comfy_host):
    case, model, _ = golden("case_b")
    spy = spy_on(model)
    found = euler_step(comfy_host, model, case, case.texts(), case.texts(), cfg=1.0)
    check_inside(case, spy)
    sigma, _ = noisy_latent(case, model)
    close(found, denoised(case, model, case["sample"]), SAMPLE * sigma.item())


def test_case_e_a_timestep_for_every_sample(golden, comfy_host):
    """Its tiny variances distinguish a wrong epsilon of a norm from the right one."""
    case, model, _ = golden("case_e")
    spy = spy_on(model)
    predicted = guided_sampling(comfy_host, case, model)
    check_inside(case, spy)
    close(predicted, case["sample"], SAMPLE)


@pytest.mark.parametrize("name", ["case_a", "case_b", "case_e"])
def test_the_same_attention_gives_the_same_numbers(golden, comfy_host, pytorch_attention, name):
    """With the kernel that the authors' run had, and the very x that it had: closer, as only the processor rounds."""
    from afa_core.host.architectures.unet_stream import time_embedding, unet_stream

    case, model, experts = golden(name)
    spy = spy_on(model)
    with torch.inference_mode():
        unets = [expert.model.diffusion_model for expert in experts]
        times = [time_embedding(unet, case["timesteps"], torch.float32) for unet in unets]
        texts = list(case["encoder_hidden_states"])
        inputs = {"x": case["x"], "timesteps": case["timesteps"], "y": None, "control": None}
        streams = [
            unet_stream(unet, {**inputs, "context": text, "transformer_options": {}}, time)
            for unet, time, text in zip(unets, times, texts, strict=True)
        ]
        lockstep(streams, model.get_attachment("afa").points, spy, FusionState([Embeddings(*both) for both in zip(times, texts, strict=True)]))
    check_inside(case, spy, tolerances=(2e-5, FUSED))


@pytest.mark.parametrize("name", ["case_a", "case_b", "case_e"])
def test_an_untrained_aggregator_averages(golden, comfy_host, name):
    case, model, _ = golden(name, conv_out=False)
    spy = spy_on(model)
    close(guided_sampling(comfy_host, case, model), case["sample_zero_init"], SAMPLE)
    n = len(case.experts)
    for shares in spy.shares.values():
        assert torch.equal(shares, torch.full_like(shares, 1 / n))


@pytest.mark.parametrize("name", ["case_a", "case_b", "case_e"])
def test_single_experts(golden, comfy_host, name):
    """Each expert alone, on its own text: distinguishes a wrong expert from a wrong fusion."""
    case, _, experts = golden(name)
    for j, expert in enumerate(experts):
        alone = Case(name)
        alone.tensors["encoder_hidden_states"] = case["encoder_hidden_states"][j : j + 1]
        close(guided_sampling(comfy_host, alone, expert), case[f"single_expert_{j}_sample"], SAMPLE)


def test_the_order_of_the_experts_matters(golden, comfy_host, checkpoint):
    """Swapped experts miss the golden sample by far: the tolerances above reject a wrong order."""
    case, model, _ = golden("case_a")
    aggregator = comfy_host.call("LoadAFAAggregator", aggregator_name="case_a")[0]
    swapped = ensemble(comfy_host, aggregator, *(checkpoint(f"golden_{i}")[0] for i in reversed(case.experts)))
    assert (guided_sampling(comfy_host, case, swapped) - case["sample"]).abs().max() > 0.05
