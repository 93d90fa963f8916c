"""Ensembles of transformers, as artists wire them: equal to plain models where they must be, and refused by name."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch

from tests.support.ensembles import certain_aggregator, ensemble, random_aggregator, spy_on, untrained
from tests.support.faults import counted
from tests.support.small_files import make_lora
from tests.support.transformers import FAMILIES, conditioning, load, sample


@pytest.fixture(scope="module", params=FAMILIES)
def twins(request, comfy_host, pack):
    return [load(comfy_host, f"tiny_{request.param}_{letter}") for letter in "ab"]


@pytest.fixture(scope="module")
def flux(comfy_host, pack):
    return [load(comfy_host, f"tiny_flux_{letter}") for letter in "abc"]


def mean_difference(one, other):
    return (one - other).abs().mean().item()


# ------------------------------------------------------------------ every family
def test_neutral_ensembles_equal_plain_models(twins, comfy_host):
    """Of one expert twice, and of an aggregator that follows one: to the bit, under guidance."""
    a, b = twins
    plain = [sample(comfy_host, case.patcher, a) for case in twins]
    assert mean_difference(*plain) > 0.05
    doubled = ensemble(comfy_host, "block average", a.patcher, a.patcher.clone())
    assert torch.equal(sample(comfy_host, doubled, a), plain[0])
    for chosen in (0, 1):
        following = ensemble(comfy_host, certain_aggregator(a.patcher, 2, chosen), a.patcher, b.patcher)
        assert torch.equal(sample(comfy_host, following, a), plain[chosen])


def test_fusions_differ_and_are_recorded(twins, comfy_host):
    a, b = twins
    results = []
    methods = ("block average", "noise average", "last block average", "max fusion", random_aggregator(a.patcher, 2))
    for method in methods:
        model = ensemble(comfy_host, method, a.patcher, b.patcher)
        results.append(sample(comfy_host, model, a))
        assert torch.isfinite(results[-1]).all()
        (run,) = model.get_attachment("afa").record.runs
        fused = run.fused_points
    for i, one in enumerate(results):
        assert all(mean_difference(one, other) > 1e-3 for other in results[:i])
    last = len(a.points) - 1
    assert list(fused) == [i for i in range(last + 1) if i % 4 == 3 or i >= last - 1]


def test_an_untrained_aggregator_averages(twins, comfy_host):
    """Where it fuses; its shares are even, and its features are those of the network's own blocks."""
    a, b = twins
    model = ensemble(comfy_host, untrained(random_aggregator(a.patcher, 2)), a.patcher, b.patcher)
    spy = spy_on(model)
    sample(comfy_host, model, a)
    assert all(torch.equal(shares, torch.full_like(shares, 0.5)) for shares in spy.shares.values())
    assert len(spy.shares) > 1


# ------------------------------------------------------------------ what is the same for every family, tested on Flux
def test_outside_the_percents_the_first_model_runs_alone(flux, comfy_host):
    a, b, _ = flux
    results = [
        sample(comfy_host, ensemble(comfy_host, "block average", a.patcher, b.patcher, **percents), a, steps=6)
        for percents in ({}, {"start_percent": 0.3}, {"end_percent": 0.3}, {"start_percent": 1.0})
    ]
    for i, one in enumerate(results):
        assert all(mean_difference(one, other) > 1e-3 for other in results[:i])
    assert torch.equal(results[-1], sample(comfy_host, a.patcher, a, steps=6))


@pytest.mark.parametrize("family", ["flux", "anima"])
def test_every_expert_reads_its_own_text(comfy_host, pack, family):
    a, b = (load(comfy_host, f"tiny_{family}_{letter}") for letter in "ab")
    own = [conditioning(case, seed) for case, seed in ((a, 1), (b, 7))]
    negative = conditioning(a, 2)
    following = ensemble(comfy_host, certain_aggregator(a.patcher, 2, 1), a.patcher, b.patcher)
    (text, extras), (other, others) = own[0][0], own[1][0]
    positive = [[text, {**extras, "afa_conds": [[other, others]]}]]
    expected = sample(comfy_host, b.patcher, b, positive=own[1], negative=negative)
    assert torch.equal(sample(comfy_host, following, a, positive=positive, negative=negative), expected)


@pytest.mark.parametrize(("decide_every", "decisions"), [(1, [1, 2, 3, 4]), (2, [1, 1, 3, 3]), (3, [1, 1, 1, 4])])
def test_kept_maps_between_decisions(flux, comfy_host, decide_every, decisions):
    """decisions: for each step the one whose maps it goes by; the aggregator runs in those alone."""
    a, b, _ = flux
    model = ensemble(comfy_host, random_aggregator(a.patcher, 2), a.patcher, b.patcher, decide_every=decide_every)
    calls = []
    with counted(aggregator_of(model).aggregators["3"], calls):
        sample(comfy_host, model, a, steps=4)
    (run,) = model.get_attachment("afa").record.runs
    maps = [evaluation.maps[3] for _, (evaluation,) in run.steps]
    assert len(calls) == len(set(decisions))
    for step in range(4):
        same = [torch.allclose(maps[step], maps[other], atol=1e-3) for other in range(4)]
        assert same == [decisions[step] == decision for decision in decisions]


@pytest.mark.parametrize(("another", "runs"), [(None, 2), (3, 4)])
def test_an_expert_is_left_out_of_whole_steps_or_not_at_all(flux, comfy_host, another, runs):
    """Its text would stay behind where it skips single blocks; `another`: a point that follows it all the same."""
    a, b, _ = flux
    file, other = (certain_aggregator(a.patcher, 2, chosen) for chosen in (1, 0))
    if another:
        key = f"aggregators.{another}.conv_out.weight"
        file = replace(file, state={**file.state, key: other.state[key]})
    model = ensemble(comfy_host, file, a.patcher, b.patcher, decide_every=2, skip_below=0.1)
    found, count = sampled_with_counts(flux[:2], lambda: sample(comfy_host, model, a, steps=4))
    assert count == [[runs] * len(a.points[:-1]), [4] * len(a.points[:-1])]
    assert torch.equal(found, sample(comfy_host, b.patcher, a, steps=4)) == (another is None)


def sampled_with_counts(cases, run):
    """What `run` gives, and for each case how often each of its blocks ran meanwhile."""
    counts = [[[] for _ in case.points[:-1]] for case in cases]
    with ExitStack() as stack:
        for case, calls in zip(cases, counts, strict=True):
            for block, its_calls in zip(case.architecture.blocks(case.network), calls, strict=True):
                stack.enter_context(counted(block.module, its_calls))
        found = run()
    return found, [[len(each) for each in calls] for calls in counts]


def aggregator_of(model):
    return model.get_additional_models()[-1].model


def test_loras_of_one_expert_and_of_the_ensemble(flux, comfy_host):
    a, b, _ = flux
    name = "diffusion_model.double_blocks.1.img_attn.qkv.weight"
    change = 2 * torch.randn(b.network.double_blocks[1].img_attn.qkv.weight.shape)

    def patched(model):
        model = model.clone()
        model.add_patches({name: (change,)}, 1.0)
        return model

    following = certain_aggregator(a.patcher, 2, 1)
    plain = sample(comfy_host, b.patcher, a)
    expected = sample(comfy_host, patched(b.patcher), a)
    assert mean_difference(plain, expected) > 1e-3
    of_one = ensemble(comfy_host, following, a.patcher, patched(b.patcher))
    of_all = patched(ensemble(comfy_host, following, a.patcher, b.patcher))
    assert torch.equal(sample(comfy_host, of_one, a), expected)
    assert torch.equal(sample(comfy_host, of_all, a), expected)
    assert torch.equal(sample(comfy_host, b.patcher, a), plain)


def test_three_experts_and_fewer_of_them_at_a_position(flux, comfy_host):
    file, models = random_aggregator(flux[0].patcher, 3), [case.patcher for case in flux]
    seen = []
    for k in (0, 1, 2, 3):
        model = ensemble(comfy_host, replace(file, top_k=k), *models)
        seen.append(sample(comfy_host, model, flux[0]))
    assert all(torch.isfinite(latent).all() for latent in seen)
    assert torch.equal(seen[0], seen[3])
    assert all(mean_difference(seen[0], latent) > 1e-4 for latent in seen[1:3])


def test_a_replacement_on_the_ensemble_acts_on_every_expert(flux, comfy_host):
    a, b, _ = flux
    called = []

    def replacement(call, extra):
        called.append(1)
        return extra["original_block"](call)

    model = ensemble(comfy_host, "block average", a.patcher, b.patcher)
    plain = sample(comfy_host, model, a)
    patched = model.clone()
    patched.set_model_patch_replace(replacement, "dit", "double_block", 1)
    assert torch.equal(sample(comfy_host, patched, a), plain)
    assert len(called) == 4, "two experts in two steps"


@pytest.mark.parametrize("node", [("FluxGuidance", {"guidance": 1.0}), ("FluxDisableGuidance", {})], ids=lambda n: n[0])
@pytest.mark.parametrize("blended", [False, True])
def test_guidance_behind_the_text_encoder_is_every_expert_s(flux, comfy_host, node, blended):
    from afa_core.host.text.carried_texts import carry

    a, b, _ = flux
    name, widgets = node
    ours, theirs = ([conditioning(case, seed) for seed in seeds] for case, seeds in ((a, (1, 2)), (b, (3, 4))))

    def prompts(texts, node, **more):
        texts = [comfy_host.call(name, conditioning=text, **widgets)[0] for text in texts]
        if not blended:
            return texts
        return [comfy_host.call(node, conditioning_to=text, conditioning_from=text, **more)[0] for text in texts]

    expected = sample(comfy_host, b.patcher, b, *prompts(theirs, "ConditioningConcat"))
    assert mean_difference(sample(comfy_host, b.patcher, b, *theirs), expected) > 1e-3
    following = ensemble(comfy_host, certain_aggregator(a.patcher, 2, 1), a.patcher, b.patcher)
    carried = [carry(one, [other]) for one, other in zip(ours, theirs, strict=True)]
    carried = prompts(carried, "AFABlendConditioning", method="concat")
    assert torch.equal(sample(comfy_host, following, a, *carried), expected)


def test_a_network_that_adapts_its_prompt_adapts_it_itself(comfy_host, pack, monkeypatch):
    """As Anima's fine-tunes do: each has an adapter of its own between the text encoder and the blocks."""
    a, b = (load(comfy_host, f"tiny_cosmos_{letter}") for letter in "ab")
    monkeypatch.setattr(type(a.architecture), "adapts_text", lambda self, model: True)
    host_conds = b.model.extra_conds
    monkeypatch.setattr(b.model, "extra_conds", lambda **kw: host_conds(**{**kw, "cross_attn": 2 * kw["cross_attn"]}))
    expected = sample(comfy_host, b.patcher, b)
    following = ensemble(comfy_host, certain_aggregator(a.patcher, 2, 1), a.patcher, b.patcher)
    assert torch.equal(sample(comfy_host, following, a), expected)
    monkeypatch.undo()
    assert mean_difference(sample(comfy_host, b.patcher, b), expected) > 1e-3


def test_every_expert_s_timesteps_go_by_the_mask(comfy_host, pack):
    """As those of Cosmos-Predict2 do where a part of a picture is painted anew."""
    a, b = (load(comfy_host, f"tiny_cosmos_{letter}") for letter in "ab")
    latent = {"samples": torch.ones(1, 16, 1, 12, 8), "noise_mask": torch.ones(1, 96, 64)}
    latent["noise_mask"][..., :32] = 0
    expected = sample(comfy_host, b.patcher, b, latent_image=latent)
    following = ensemble(comfy_host, certain_aggregator(a.patcher, 2, 1), a.patcher, b.patcher)
    assert torch.equal(sample(comfy_host, following, a, latent_image=latent), expected)


def test_experts_of_anima_use_their_own_adapters(comfy_host, pack):
    """Two experts that differ in their adapters alone, on one text."""
    a, b = (load(comfy_host, "tiny_anima_a") for _ in range(2))
    both = ensemble(comfy_host, "block average", a.patcher, b.patcher)
    alike = sample(comfy_host, a.patcher, a)
    assert torch.equal(sample(comfy_host, both, a), alike)
    with torch.inference_mode():
        for parameter in b.network.llm_adapter.parameters():
            parameter.copy_(parameter.flip(0))
    other = sample(comfy_host, b.patcher, a)
    assert mean_difference(alike, other) > 1e-3
    assert mean_difference(sample(comfy_host, both, a), alike) > 1e-3
    for chosen, expected in enumerate((alike, other)):
        following = ensemble(comfy_host, certain_aggregator(a.patcher, 2, chosen), a.patcher, b.patcher)
        assert torch.equal(sample(comfy_host, following, a), expected)


def test_a_lora_of_one_expert_on_its_adapter(comfy_host, pack, caplog):
    """The adapter runs before the network is called, where no expert's patches act beside shared weights."""
    a = load(comfy_host, "tiny_anima_a")
    lora = make_lora(comfy_host.base, a.patcher, name="tiny_anima_lora")
    patched = comfy_host.call("LoraLoaderModelOnly", model=a.patcher, lora_name=lora, strength_model=1.0)[0]
    models = (a.patcher, patched)
    assert any(key.startswith("diffusion_model.llm_adapter.") for key in patched.patches)
    for chosen, model in enumerate(models):
        expected = sample(comfy_host, model, a)
        following = ensemble(comfy_host, certain_aggregator(a.patcher, 2, chosen), *models)
        assert torch.equal(sample(comfy_host, following, a), expected)
    assert "model_2 runs on a copy of its network: a patch of what adapts its prompts" in caplog.text


def test_merges_by_block(twins, comfy_host):
    """Every block has a name for merging tools; what no name covers is the base."""
    a, b = twins
    names = a.architecture.merge_blocks(a.model)
    assert len(names) == len(a.points) - 1
    first, prefix = next((name, prefixes[0]) for name, prefixes in names.items())
    merged = comfy_host.call(
        "AFAMergeModels", model_1=a.patcher, model_2=b.patcher, weights="1, 0", block_weights=f"{first} 0, 1"
    )[0]
    state, own, other = (model.model_state_dict() for model in (merged, a.patcher, b.patcher))
    patched = {key.removeprefix("diffusion_model.") for key in merged.patches}
    assert patched == {
        key.removeprefix("diffusion_model.") for key in own if key.startswith(f"diffusion_model.{prefix}")
    }
    assert state.keys() == other.keys()
    assert torch.isfinite(sample(comfy_host, merged, a)).all()


# ------------------------------------------------------------------ warned of, and refused by name
def test_distilled_and_plain_models_are_warned_of(flux, comfy_host, caplog):
    """By what a network reads, and by its name where that says it; alike ones are mixed without a word."""
    from afa_core.host.experts.distilled import distilled_notices
    from afa_core.host.experts.experts import Expert

    schnell = load(comfy_host, "tiny_schnell_a")
    model = ensemble(comfy_host, "block average", flux[0].patcher, schnell.patcher)
    (said,) = [record.getMessage() for record in caplog.records if "guidance" in record.getMessage()]
    assert "model_1 takes guidance as a number, and model_2 does not" in said
    assert torch.isfinite(sample(comfy_host, model, flux[0])).all()
    caplog.clear()
    ensemble(comfy_host, "block average", flux[0].patcher, flux[1].patcher)
    assert not caplog.records
    base, turbo = (Expert(flux[i].patcher, f"model_{i} (z_image_{kind})") for i, kind in enumerate(("base", "turbo")))
    (said,) = distilled_notices([base, turbo])
    assert "model_1 (z_image_turbo) is named as a model of few steps, and model_0 (z_image_base) is not" in said


def test_a_model_compiled_as_a_whole(flux, comfy_host):
    from afa_core.host.experts.experts import ExpertError

    compiled = comfy_host.call("TorchCompileModel", model=flux[1].patcher, backend="inductor")[0]
    with pytest.raises(ExpertError, match="model_2 is compiled as a whole"):
        ensemble(comfy_host, "block average", flux[0].patcher, compiled)


def refused(comfy_host, match, *models, aggregator="block average", latent=None):
    from afa_core.host.experts.experts import ExpertError

    with pytest.raises(ExpertError, match=match):
        model = ensemble(comfy_host, aggregator, *(m.patcher for m in models))
        sample(comfy_host, model, models[0], latent=latent)


def test_families_mixed(flux, comfy_host):
    refused(comfy_host, "Flux.1.*Chroma|Chroma.*Flux.1", flux[0], load(comfy_host, "tiny_chroma_a"))
    refused(comfy_host, "Z-Image.*Lumina 2", load(comfy_host, "tiny_lumina_a"), load(comfy_host, "tiny_zimage_a"))


def test_an_aggregator_of_another_family(flux, comfy_host):
    lumina = [load(comfy_host, f"tiny_lumina_{letter}") for letter in "ab"]
    refused(comfy_host, "Lumina 2.*Flux.1", *flux[:2], aggregator=random_aggregator(lumina[0].patcher, 2))


@pytest.mark.parametrize("place", ["model_1", "model_2", "the ensemble"])
@pytest.mark.parametrize("node", ["EasyCache", "LazyCache"])
def test_step_caches(flux, comfy_host, node, place):
    from afa_core.host.experts.experts import ExpertError

    def cached(model):
        return comfy_host.call(node, model=model)[0]

    models = [case.patcher for case in flux[:2]]
    if place != "the ensemble":
        index = int(place[-1]) - 1
        models[index] = cached(models[index])
    with pytest.raises(ExpertError, match=f"(?i){place} has {node}"):
        model = ensemble(comfy_host, "block average", *models)
        sample(comfy_host, cached(model), flux[0])


def test_the_cache_of_flux(flux, comfy_host):
    """It is recognised by the class of its patch; an older host, without the node, gets a patch of that name."""
    from afa_core.host.experts.experts import ExpertError

    model = ensemble(comfy_host, "block average", *(case.patcher for case in flux[:2]))
    if "FluxKVCache" in comfy_host.nodes.NODE_CLASS_MAPPINGS:
        (model,) = comfy_host.call("FluxKVCache", model=model)
    else:
        model.set_model_attn1_patch(type("KV_Attn_Input", (), {"__call__": lambda self, q, k, v, **_: {}})())
    with pytest.raises(ExpertError, match="Flux KV Cache"):
        sample(comfy_host, model, flux[0])


def test_video_latents(comfy_host, pack):
    cases = [load(comfy_host, f"tiny_cosmos_{letter}") for letter in "ab"]
    refused(comfy_host, "video of 3 frames", *cases, latent=torch.zeros(1, 16, 3, 8, 8))


def test_a_skipped_block_names_the_expert(flux, comfy_host):
    from afa_core.host.experts.experts import ExpertError

    a, _, _ = flux
    chroma = [load(comfy_host, f"tiny_chroma_{letter}") for letter in "ab"]
    chroma[1].network.skip_dit = [2]  # the host's own way to leave a block out
    model = ensemble(comfy_host, "block average", *(case.patcher for case in chroma))
    with pytest.raises(ExpertError, match="model_2.*single 2"):
        sample(comfy_host, model, chroma[0])
