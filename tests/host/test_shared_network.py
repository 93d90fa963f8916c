"""Experts that differ by LoRAs run on one network: each gives what its merged model gives, and no other's patch acts."""

import threading
from contextvars import copy_context

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.support.ensembles import certain_aggregator, ensemble, random_aggregator, training_free
from tests.support.graphs import hooked_lora, sample
from tests.support.random_examples import examples
from tests.support.shop import Shop
from tests.support.small_files import make_lora

FAMILIES = ("tiny_sd15", "tiny_sdxl")


@pytest.fixture(scope="module")
def shops(comfy_host, pack):
    shops = {family: Shop(comfy_host, family) for family in FAMILIES}
    for shop in shops.values():
        family = shop.lora.removesuffix("_lora.safetensors")
        shop.loras = [
            shop.lora,
            make_lora(comfy_host.base, shop.plain, name=f"{family}_wide_lora", seed=1, rank=4, everywhere=True),
            make_lora(comfy_host.base, shop.plain, name=f"{family}_third_lora", seed=2),
        ]
    return shops


@pytest.fixture
def shop(shops):
    return shops["tiny_sd15"]


def run(shop, model, **widgets):
    return sample(shop.wires(model).with_widgets(**widgets))


def stacked(shop, stack):
    """The plain model with LoRAs (number, strength), in this order."""
    model = shop.plain
    for number, strength in stack:
        model = shop.with_lora(model, strength, shop.loras[number])
    return model


def only(shop, chosen: int, models):
    return ensemble(shop.host, certain_aggregator(shop.plain, len(models), chosen), *models)


def close(found, expected, tolerance: float = 1e-5) -> bool:
    return (found - expected).norm() <= tolerance * expected.norm()


def networks(model) -> int:
    """How many networks of experts an ensemble holds."""
    return len({id(expert.patcher.model) for expert in model.get_attachment("afa").experts})


# ------------------------------------------------------------------ equal to merged weights
STACKS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([-1.0, 0.0, 0.35, 1.0, 2.0])), max_size=3)


@examples(4)
@given(
    family=st.sampled_from(FAMILIES),
    stacks=st.lists(STACKS, min_size=2, max_size=4),
    common=STACKS,
    behind=st.sampled_from([(), ((0, 0.7),)]),
    cfg=st.sampled_from([1.0, 4.0]),
)
def test_every_expert_is_its_stack_alone(shops, family, stacks, common, behind, cfg):
    """Random stacks on one checkpoint, the ensemble following each in turn; what is common lies before the fork.

    AFA_RANDOM_GRAPHS=100 tries that many instead of a few.
    """
    shop = shops[family]
    untouched = run(shop, shop.plain, cfg=cfg)
    trunk = stacked(shop, common)

    def patched(model, stack):
        for number, strength in stack:
            model = shop.with_lora(model, strength, shop.loras[number])
        return model

    models = [patched(trunk, stack) for stack in stacks]
    for chosen, model in enumerate(models):
        ensembled = patched(only(shop, chosen, models), behind)
        assert networks(ensembled) == 1
        found = run(shop, ensembled, cfg=cfg)
        # Strong LoRAs on random weights amplify the rounding of a sum: hundredfold within two steps.
        assert close(found, run(shop, patched(model, behind), cfg=cfg), 1e-4)
    assert torch.equal(run(shop, shop.plain, cfg=cfg), untouched)


@pytest.mark.parametrize(("family", "strength"), [("tiny_sd15", -1.0), ("tiny_sd15", 2.0), ("tiny_sdxl", 2.0)])
def test_a_prediction_equals_that_of_merged_weights(shops, family, strength):
    shop = shops[family]
    models = [shop.plain, *(stacked(shop, [(number, strength)]) for number in range(2))]
    for chosen, model in enumerate(models):
        found = run(shop, only(shop, chosen, models), steps=1, cfg=1.0)
        expected = run(shop, model, steps=1, cfg=1.0)
        assert close(found, expected)
        assert chosen == 0 or not close(expected, run(shop, shop.plain, steps=1, cfg=1.0), 1e-2)


def test_strength_zero_is_no_lora_to_the_bit(shop):
    models = [shop.plain, stacked(shop, [(0, 0.0)]), stacked(shop, [(1, 1.0)])]
    assert torch.equal(run(shop, only(shop, 1, models)), run(shop, shop.plain))
    assert torch.equal(run(shop, only(shop, 0, models)), run(shop, shop.plain))


def test_one_stack_twice(shop):
    """Also from two loaders: twins under any fusion are the one model."""
    twins = [stacked(shop, [(0, 1.0)]) for _ in range(2)]
    expected = run(shop, twins[0])
    for models in (twins, [twins[0], twins[0]]):
        model = ensemble(shop.host, random_aggregator(shop.plain, 2), *models)
        assert networks(model) == 1
        assert close(run(shop, model), expected, 1e-4)


def test_the_first_expert_alone_keeps_its_lora(shop):
    """Outside the part of sampling that is ensembled."""
    models = [stacked(shop, [(0, 1.0)]), stacked(shop, [(1, 1.0)])]
    model = ensemble(shop.host, "block average", *models, start_percent=0.99, end_percent=1.0)
    assert close(run(shop, model, steps=1), run(shop, models[0], steps=1))


def test_a_scheduled_lora_acts_on_all(shop):
    models = [stacked(shop, [(1, 0.5)]), stacked(shop, [(2, 1.0)])]
    for chosen, model in enumerate(models):
        found, expected = (sample(hooked_lora(shop.wires(m))) for m in (only(shop, chosen, models), model))
        assert close(found, expected, 1e-4)
        assert not close(expected, run(shop, model), 1e-2)


def test_a_merge_behind_the_ensemble_is_refused(shop):
    model = ensemble(shop.host, "block average", shop.plain, stacked(shop, [(0, 1.0)]))
    merged = shop.host.call("ModelMergeSimple", model1=model, model2=shop.other, ratio=0.5)[0]
    with pytest.raises(ValueError, match="A node behind the ensemble merges or rescales"):
        run(shop, merged)


# ------------------------------------------------------------------ what needs a copy
def test_a_full_difference_needs_a_copy(shop, caplog):
    """And only that expert: the other two share the network."""
    full = shop.host.call("ModelMergeSimple", model1=shop.plain, model2=shop.other, ratio=0.5)[0]
    models = [stacked(shop, [(0, 1.0)]), full, stacked(shop, [(1, 1.0)])]
    expected = [run(shop, model) for model in models]
    for chosen in range(3):
        model = only(shop, chosen, models)
        assert networks(model) == 2
        assert close(run(shop, model), expected[chosen], 1e-4)
    assert "model_2" in caplog.text and "a merge with another model cannot act beside weights" in caplog.text


def make_products(base, model, name: str, seed: int, kind: str) -> str:
    """A LoHa or a LoKr on the attentions."""
    random, state = torch.Generator().manual_seed(seed), {}
    for key, module in model.model.diffusion_model.named_modules():
        if key.endswith(("to_q", "to_v")):
            rows, columns = module.weight.shape
            shapes = {
                "loha": {"hada_w1_a": (rows, 2), "hada_w1_b": (2, columns), "hada_w2_a": (rows, 2), "hada_w2_b": (2, columns)},
                "lokr": {"lokr_w1": (2, 2), "lokr_w2_a": (rows // 2, 3), "lokr_w2_b": (3, columns // 2)},
            }  # fmt: skip
            for part, shape in shapes[kind].items():
                state[f"diffusion_model.{key}.{part}"] = 0.3 * torch.randn(shape, generator=random)
    save_file(state, base / "models" / "loras" / f"{name}.safetensors")
    return f"{name}.safetensors"


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_products_share_the_network_where_the_host_has_their_arithmetic(shop, caplog, kind):
    import comfy.weight_adapter

    files = [make_products(shop.host.base, shop.plain, f"{kind}_{seed}", seed, kind) for seed in range(2)]
    products = [shop.with_lora(shop.plain, 0.8, files[0]), shop.with_lora(shop.plain, -1.0, files[1])]
    models = [shop.with_lora(model, 0.5) for model in products]
    expected = [run(shop, model, steps=1, cfg=1.0) for model in models]
    assert not close(*expected, 1e-3)
    shared = hasattr(comfy.weight_adapter, "BypassForwardHook")
    for chosen in range(2):
        model = only(shop, chosen, models)
        assert networks(model) == (1 if shared else 2)
        assert close(run(shop, model, steps=1, cfg=1.0), expected[chosen])
    assert ("on a ComfyUI without bypass mode, cannot act beside weights" in caplog.text) != shared


def test_a_dora_needs_a_copy(shop, caplog):
    dora = make_lora(shop.host.base, shop.plain, name="dora", seed=5, dora=True)
    models = [shop.plain, shop.with_lora(shop.plain, 1.0, dora)]
    for chosen in range(2):
        model = only(shop, chosen, models)
        assert networks(model) == 2
        assert torch.equal(run(shop, model), run(shop, models[chosen]))
    assert "a DoRA cannot act beside weights" in caplog.text


def test_a_replaced_block_needs_a_copy(shop, caplog):
    """Such as a compiled one; without LoRAs its twins still share it."""
    replaced = shop.plain.clone()
    replaced.add_object_patch("diffusion_model.out", shop.plain.model.diffusion_model.out)
    models = [replaced, shop.with_lora(replaced)]
    assert networks(ensemble(shop.host, "block average", *models)) == 2
    assert "a patch of a replaced block cannot act beside weights" in caplog.text
    assert networks(ensemble(shop.host, "block average", replaced, replaced.clone())) == 1


def test_layers_that_another_node_replaces_are_refused(shop):
    from comfy.patcher_extension import PatcherInjection

    replacing = shop.plain.clone()
    replacing.set_injections("bypass", [PatcherInjection(inject=lambda patcher: None, eject=lambda patcher: None)])
    with pytest.raises(ValueError, match="use the ordinary Load LoRA nodes"):
        ensemble(shop.host, "block average", shop.plain, replacing)


# ------------------------------------------------------------------ no leak
def test_two_ensembles_in_turns(shop):
    """Over one network and the same LoRAs, in another order; and the plain model in between."""
    models = [stacked(shop, [(number, 1.0)]) for number in range(2)]
    one, other = (ensemble(shop.host, random_aggregator(shop.plain, 2), *order) for order in (models, models[::-1]))
    expected = [run(shop, model) for model in (one, other, shop.plain)]
    assert not close(*expected[:2], 1e-3)
    for model, before in zip((one, other, shop.plain, other, one), [expected[i] for i in (0, 1, 2, 1, 0)], strict=True):
        assert torch.equal(run(shop, model), before)


@pytest.mark.parametrize("error", ["interrupted", "failed"])
def test_after_an_error_no_patch_acts(shop, error):
    import comfy.model_management

    from afa_core.host.experts.beside import acting_patches

    raised = {"interrupted": comfy.model_management.InterruptProcessingException, "failed": RuntimeError}[error]
    models = [stacked(shop, [(number, 1.0)]) for number in range(2)]
    model = ensemble(shop.host, training_free(shop.host, "block average", "1, 1"), *models)
    expected = [run(shop, m) for m in (model, shop.plain)]
    stopping, calls = model.clone(), []

    def patch(h, options):
        calls.append(acting_patches())
        if len(calls) == 40:
            raise raised
        return h

    stopping.set_model_input_block_patch(patch)
    with pytest.raises(raised):
        run(shop, stopping, steps=6)
    assert len({id(patches) for patches in calls}) == 2 and None not in calls
    assert acting_patches() is None
    for m, before in zip((model, shop.plain), expected, strict=True):
        assert torch.equal(run(shop, m), before)


def test_the_plain_network_carries_no_hook_when_it_runs_alone(shop):
    def hooks():
        return sum(len(module._forward_hooks) for module in shop.plain.model.modules())

    model = ensemble(shop.host, "block average", shop.plain, stacked(shop, [(0, 1.0)]))
    run(shop, model)
    assert hooks()
    run(shop, shop.plain)
    assert not hooks()


def test_threads_see_the_patches_of_their_own_expert(shop):
    """A DiT's expert runs in a thread that is given a copy of the context."""
    from afa_core.host.experts.beside import LayerHooks, PatchesBeside, acting, acting_patches

    found, stacks = [], [PatchesBeside({}, LayerHooks()) for _ in range(2)]
    for stack in stacks:
        with acting(stack):
            context = copy_context()
        thread = threading.Thread(target=context.run, args=(lambda: found.append(acting_patches()),))
        thread.start()
        thread.join()
    assert found == stacks and acting_patches() is None


# ------------------------------------------------------------------ memory
def test_patches_are_counted_by_the_memory_manager(shop):
    import comfy.model_management as memory

    models = [stacked(shop, [(0, 1.0)]), stacked(shop, [(1, 1.0)])]
    model = ensemble(shop.host, "block average", *models)
    run(shop, model)
    sizes = sorted(p.model_size() for p in model.get_additional_models())
    assert len(sizes) == 2 and 0 < sizes[0] < sizes[1] < 0.2 * model.model_size()
    loaded = [m.model for m in memory.current_loaded_models]
    assert all(any(p.is_clone(m) for m in loaded) for p in (model, *model.get_additional_models()))


# ------------------------------------------------------------------ training
def test_a_teachers_digest_knows_the_strength_of_a_lora_beside_the_weights(shop):
    """Its stored predictions are found by it."""
    from afa_core.host.training.teacher import Teacher

    def digest(strength):
        model = ensemble(shop.host, "block average", shop.plain, stacked(shop, [(0, strength)]))
        return Teacher(model).digest

    assert digest(0.5) == digest(0.5) != digest(0.6)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_on_experts_that_share_a_network(shop, checkpointing):
    """Predictions and gradients are those over networks of their own, where a block is computed again in the backward pass too."""
    from afa_core.fusion.averages import StaticFusion
    from afa_core.host.experts.experts import Expert
    from afa_core.host.training.frozen_experts import HostExperts, outside_inference

    random = torch.Generator().manual_seed(0)
    latent, text = (torch.randn(shape, generator=random) for shape in ((1, 4, 8, 8), (1, 77, 32)))

    def trained(models):
        frozen = HostExperts([Expert(model, f"model_{i}") for i, model in enumerate(models)], checkpointing)
        fusion = StaticFusion("block average", (3.0, 1.0)).bind(frozen.points, 2)
        noisy = latent.clone().requires_grad_()
        with outside_inference():
            frozen.load([1, 4, 8, 8])
            prediction = frozen.predict(fusion, noisy, torch.full((1,), 3.0), [{"c_crossattn": text}] * 2)
            prediction.square().sum().backward()
        shared = frozen.experts[0].patcher.is_clone(frozen.experts[1].patcher)
        return shared, prediction.detach(), noisy.grad

    def patched(models):
        return [shop.with_lora(model, 1.0, lora) for model, lora in zip(models, shop.loras, strict=False)]

    shared, *found = trained(patched([shop.plain, shop.plain]))
    apart, *expected = trained(patched(shop.copies))
    assert shared and not apart
    for mine, theirs in zip(found, expected, strict=True):
        assert close(mine, theirs, 1e-4)
    assert not close(found[0], trained([shop.plain, shop.plain])[1], 1e-2)


# ------------------------------------------------------------------ transformers
def test_gradients_of_a_transformer_computed_again(comfy_host, pack):
    """A block is run again in the backward pass: with the LoRA of its own expert."""
    import comfy.model_management as memory
    from comfy.ldm.modules.attention import attention_pytorch

    from afa_core.fusion.fusion import FusionState
    from afa_core.fusion.lockstep import lockstep
    from afa_core.host.experts.experts import Expert
    from afa_core.host.experts.networks import share_networks
    from afa_core.host.experts.streams import expert_stream
    from afa_core.host.training.frozen_experts import make_trainable, outside_inference
    from tests.support.transformers import load

    case = load(comfy_host, "tiny_flux_a")
    lora = make_lora(comfy_host.base, case.patcher, name="flux_gradients", everywhere=True)
    patched = comfy_host.call("LoraLoaderModelOnly", model=case.patcher, lora_name=lora, strength_model=0.5)[0]
    experts = share_networks([Expert(case.patcher, "model_1"), Expert(patched, "model_2")])
    options = {"optimized_attention_override": lambda f, *a, **k: attention_pytorch(*a, **k)}

    def gradient(checkpointing):
        move = torch.zeros(1, case.points[0].channels, 1, 1, requires_grad=True)

        def fusion(point, features, state):
            mean = sum(features) / 2
            return [mean + move if point.index == 0 else mean] * 2

        streams, embeddings = zip(
            *(
                expert_stream(expert, case.named(case.inputs(batch=1), None, dict(options)), {}, (), checkpointing)
                for expert in experts
            ),
            strict=True,
        )
        lockstep(streams, case.points, fusion, FusionState(embeddings)).square().sum().backward()
        return move.grad

    with outside_inference():
        loaded = [experts[0].patcher, experts[1].beside]
        for patcher in loaded:
            make_trainable(patcher.model)
        memory.load_models_gpu(loaded)
        for patcher in loaded:
            patcher.model.requires_grad_(False)
        kept, again = gradient(False), gradient(True)
    assert kept.abs().max() > 0 and torch.equal(kept, again)


@examples(3)
@example(name="tiny_flux_a", stacks=[[(0, 1.0)], [(1, -1.0), (2, 0.35)]], common=[])
@example(name="tiny_lumina_a", stacks=[[], [(1, 2.0)]], common=[(0, 1.0)])
@given(
    name=st.sampled_from(["tiny_flux_a", "tiny_lumina_a", "tiny_zimage_a", "tiny_qwen_a"]),
    stacks=st.lists(STACKS, min_size=2, max_size=4),
    common=STACKS,
)
def test_every_expert_of_a_transformer_is_its_stack_alone(comfy_host, pack, name, stacks, common):
    """Each in a thread of its own, all on one network, in lockstep, following each expert in turn."""
    import comfy.model_management as memory

    from afa_core.fusion.fusion import FusionState
    from afa_core.fusion.lockstep import lockstep
    from afa_core.host.experts.experts import Expert
    from afa_core.host.experts.networks import share_networks
    from afa_core.host.experts.streams import expert_stream
    from tests.support.transformers import by_host, load

    case = load(comfy_host, name)
    loras = [
        make_lora(comfy_host.base, case.patcher, name=f"{name}_{seed}", seed=seed, everywhere=True) for seed in range(3)
    ]

    def patched(model, stack):
        for number, strength in stack:
            inputs = {"model": model, "lora_name": loras[number], "strength_model": strength}
            model = comfy_host.call("LoraLoaderModelOnly", **inputs)[0]
        return model

    trunk = patched(case.patcher, common)
    models = [patched(trunk, stack) for stack in stacks]
    inputs = case.inputs()
    expected = []
    for model in (case.patcher, *models):
        memory.load_models_gpu([model])
        expected.append(by_host(case, inputs))
    plain = expected.pop(0)
    experts = share_networks([Expert(model, f"model_{i}") for i, model in enumerate(models)])
    assert len({id(expert.patcher.model) for expert in experts}) == 1
    memory.load_models_gpu([experts[0].patcher, *(expert.beside for expert in experts if expert.beside)])
    for chosen, alone in enumerate(expected):

        def one_hot(point, features, state, chosen=chosen):
            return [features[chosen].clone()] * len(features)

        with torch.inference_mode():
            streams, embeddings = zip(
                *(expert_stream(expert, case.named(inputs, None, {}), {}) for expert in experts), strict=True
            )
            found = lockstep(streams, case.points, one_hot, FusionState(embeddings))
        assert close(found.reshape(alone.shape), alone)
        moved = [sum(s for n, s in (*common, *stacks[chosen]) if n == number) for number in range(len(loras))]
        assert close(alone, plain, 1e-2) == (not any(moved))
    comfy_host.release()


# ------------------------------------------------------------------ documents
def test_the_sizes_in_the_memory_table(comfy_host):
    from tests.bench.loras import TRANSFORMERS
    from tests.bench.models import SD15, SDXL, network
    from tests.tools.memory_table import FAMILIES, LORA

    for family, name in ((SD15, "SD1.5"), (SDXL, "SDXL")):
        weights = dict(network(family, "meta").diffusion_model.named_parameters())
        assert sum(weight.numel() for weight in weights.values()) == FAMILIES[name][0]
        patched = [w for key, w in weights.items() if w.ndim > 1 and any(part in key for part in TRANSFORMERS)]
        assert sum(len(weight) + weight[0].numel() for weight in patched) == LORA[name]
