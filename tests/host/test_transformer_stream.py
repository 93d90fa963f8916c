"""A stream of one transformer is the host's own forward pass, to the bit, on whatever ComfyUI the tests run.

Each case runs twice on one network: by the host and by the stream. What it hands over (control residuals, patches that
write in place) is made anew for each run. A family that this host does not have is left out, by name.
"""

from inspect import signature

import pytest
import torch

from tests.support.transformers import TOYS, Case, by_host, by_stream, check, load

FLUX = ("flux", "schnell", "chroma")
WITH_SLOTS = (*FLUX, "qwen")


@pytest.fixture(scope="module", params=TOYS)
def case(request, comfy_host) -> Case:
    return load(comfy_host, request.param)


def of(*families):
    """Runs a test on the toys of these families only."""
    return pytest.mark.parametrize("case", [toy for toy in TOYS if toy.split("_")[1] in families], indirect=True)


@pytest.mark.parametrize("size", [(16, 12), (13, 9), (2, 2), (20, 27)])
def test_latents_of_any_size(case, size):
    inputs = case.inputs(size=size)
    try:
        by_host(case, inputs)
    except AssertionError:
        assert case.family == "cosmos" and (size[0] % 2 or size[1] % 2), "only the Cosmos of older hosts does not pad"
        pytest.skip("this ComfyUI's Cosmos takes even sizes only")
    check(case, inputs)


@pytest.mark.parametrize("tokens", [1, 40])
def test_one_picture_and_prompts_of_any_length(case, tokens):
    check(case, case.inputs(batch=1, tokens=tokens))


# ------------------------------------------------------------------ other conditionings
@of("flux", "schnell")
def test_without_guidance(case):
    with_guidance = by_host(case, case.inputs())
    without = check(case, {**case.inputs(), "guidance": None})
    assert torch.equal(with_guidance, without) == (case.family == "schnell")


METHODS = {
    "flux": ("offset", "index", "uxo"),
    "schnell": ("offset",),
    "qwen": ("offset", "index", "index_timestep_zero"),
    "krea2": ("index", "index_timestep_zero"),
}


@pytest.mark.parametrize(
    ("case", "method"),
    [(f"tiny_{family}_a", method) for family, methods in METHODS.items() for method in methods],
    indirect=["case"],
)
def test_reference_latents(case, method):
    needs_argument(case, "ref_latents")
    frames = (1,) if case.architecture.has_frames else ()
    references = [
        torch.randn(2, 16, *frames, *size, generator=torch.Generator().manual_seed(1)) for size in [(8, 6), (7, 5)]
    ]
    inputs = {**case.inputs(size=(13, 9)), "ref_latents": references, "ref_latents_method": method}
    assert not torch.equal(check(case, inputs), by_host(case, case.inputs(size=(13, 9))))


@of("lumina", "zimage")
def test_reference_latents_with_texts_of_their_own(case):
    needs_argument(case, "ref_latents")
    random = torch.Generator().manual_seed(1)
    inputs = {
        **case.inputs(size=(13, 9)),
        "ref_latents": [torch.randn(1, 16, *size, generator=random) for size in [(8, 6), (2, 10)]],
        "ref_contexts": [torch.randn(1, length, 48, generator=random) for length in (5, 2)],
    }
    assert not torch.equal(check(case, inputs), by_host(case, case.inputs(size=(13, 9))))


def needs_argument(case, name):
    if name not in signature(case.network._forward).parameters:
        pytest.skip(f"this ComfyUI's {case.architecture.name(case.model)} takes no {name}")


@of(*FLUX)
def test_mask_of_the_whole_attention(case):
    """As style models add one: how much each token of text and picture looks at each other one."""
    inputs = case.inputs()
    tokens = inputs["context"].shape[1] + 8 * 6
    mask = torch.randn(2, tokens, tokens, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(check(case, {**inputs, "attention_mask": mask}), by_host(case, inputs))


@of("lumina", "zimage", "qwen", "krea2")
def test_mask_of_the_prompt(case):
    """Whatever a host makes of it; not all of these families look at it on all hosts."""
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[:, 5:] = False
    if case.family in ("lumina", "zimage"):
        mask = mask[:, None, None]
    if case.family == "zimage":  # its padding is attended to whatever the mask says
        mask = torch.nn.functional.pad(mask, (0, 25), value=True)
    if case.family == "qwen":  # is given what is added to the attention
        mask = torch.zeros(2, 7).masked_fill(~mask, -1e4)
    check(case, {**case.inputs(), "attention_mask": mask})


# ------------------------------------------------------------------ control, patches
def residuals(case, inputs, places=("input", "output")):
    """As a ControlNet's, for the picture's tokens."""
    height, width = (-(-side // 2) for side in inputs["x"].shape[-2:])
    generator = torch.Generator().manual_seed(6)

    def made():
        return 0.3 * torch.randn(2, height * width, case.points[0].channels, generator=generator)

    counts = {"input": 3, "output": 4}
    kept = {place: [made() for _ in range(counts[place])] for place in places}
    return lambda: {"input": [], "output": [], **{p: [t.clone() for t in kept[p]] for p in places}}


@pytest.mark.parametrize("places", [("input",), ("output",), ("input", "output")])
@of(*WITH_SLOTS)
def test_control_residuals(case, places):
    inputs = case.inputs()
    expected = check(case, inputs, residuals(case, inputs, places))
    assert torch.equal(expected, by_host(case, inputs)) == (case.family == "qwen" and places == ("output",))


@of(*WITH_SLOTS)
def test_control_residuals_with_gaps(case):
    inputs = case.inputs()
    made = residuals(case, inputs)

    def gappy():
        control = made()
        control["input"][1] = None
        control["output"] = control["output"][:2]
        return control

    check(case, inputs, gappy)


def chained(call, extra):
    """A replacement that writes into what it is given and gets back."""
    call["img"].mul_(0.9)
    out = extra["original_block"](call)
    out["img"].add_(0.1)
    if "txt" in out:
        out["txt"].mul_(1.1)
    return out


def skipping(call, extra):
    """As skip-layer guidance leaves a block out."""
    return call


@pytest.mark.parametrize("patch", [chained, skipping])
@of(*WITH_SLOTS)
def test_a_replacement_that_was_in_the_slot_before(case, patch):
    slots = [("double_block", 0), ("double_block", 2), ("single_block", 1), ("single_block", 3)]
    expected = check(case, case.inputs(), options=lambda: {"patches_replace": {"dit": dict.fromkeys(slots, patch)}})
    assert not torch.equal(expected, by_host(case, case.inputs()))


def test_replacements_elsewhere_stay(case):
    """Nothing is added to what the caller's patches are kept in, and other kinds of replacement are not lost."""
    seen = []

    def override(function, *args, **kwargs):
        seen.append(kwargs["transformer_options"]["patches_replace"]["attn2"])
        return function(*args, **kwargs)

    kept = {"attn2": {("x", 1): chained}, "dit": {}}
    by_stream(case, case.inputs(), options={"patches_replace": kept, "optimized_attention_override": override})
    assert kept == {"attn2": {("x", 1): chained}, "dit": {}}
    assert seen and all(slots == kept["attn2"] for slots in seen)


@of("qwen", "lumina", "zimage")
def test_patches_behind_a_block(case):
    check_patches(case, "double_block", louder_by_block)


@of("lumina", "zimage")
def test_patches_behind_a_refiner(case):
    """As Z-Image's ControlNets have both."""
    check_patches(case, "noise_refiner", louder_by_block)


def louder_by_block(arguments):
    """Writes into what it is given."""
    arguments["img"].mul_(1.1 + 0.1 * arguments["block_index"])
    return arguments


@of("flux", "schnell", "qwen", "krea2", "cosmos", "anima")
def test_a_patch_of_the_first_hidden_states(case):
    """It may prepend tokens to the text, as USO does."""

    def patch(states):
        states = {**states, "img": states["img"] * 1.1}
        for name in states.keys() & {"txt", "txt_ids"}:
            states[name] = torch.cat((states[name][:, :3], states[name]), dim=1)
        return states

    check_patches(case, "post_input", patch)


def check_patches(case, kind, patch):
    """Skips the test where the host's network does not call such patches."""
    calls = []

    def counted(arguments):
        calls.append(1)
        return patch(arguments)

    patched = by_host(case, case.inputs(), options={"patches": {kind: [counted, counted]}})
    if not calls:
        pytest.skip(f"this ComfyUI's {case.architecture.name(case.model)} calls no {kind} patches")
    assert not torch.equal(patched, by_host(case, case.inputs()))
    check(case, case.inputs(), options=lambda: {"patches": {kind: [counted, counted]}})


def test_overridden_attention(case):
    from comfy.ldm.modules.attention import attention_pytorch

    seen = []

    def override(function, *args, **kwargs):
        options = kwargs["transformer_options"]
        seen.append((options.get("block_type"), options.get("block_index")))
        return attention_pytorch(*args, **kwargs)

    expected = by_host(case, case.inputs(), options={"optimized_attention_override": override})
    by_the_host, seen[:] = seen[:], []
    assert torch.equal(by_stream(case, case.inputs(), options={"optimized_attention_override": override}), expected)
    assert seen == by_the_host
    assert len(seen) >= len(case.points) - 1


def test_a_lora(case, comfy_host):
    from comfy.model_management import load_models_gpu

    patcher = case.patcher.clone()
    name, weight = next(
        (n, w)
        for n, w in case.network.named_parameters()
        if n.endswith(("qkv.weight", "q_proj.weight", "to_q.weight", "wq.weight"))
    )
    plain = by_host(case, case.inputs())
    patcher.add_patches({f"diffusion_model.{name}": (torch.randn_like(weight),)}, 0.7)
    load_models_gpu([patcher])
    try:
        assert not torch.equal(check(case, case.inputs()), plain)
    finally:
        patcher.unpatch_model()
    assert torch.equal(by_host(case, case.inputs()), plain)


# ------------------------------------------------------------------ what a fusion sees
def test_points_are_where_the_stream_yields(case):
    seen = []

    def watch(point, features, state):
        (feature,) = features
        seen.append((point.name, feature.shape[1], tuple(feature.shape[-2:])))
        return features

    inputs = case.inputs(size=(14, 20))
    by_stream(case, inputs, fusion=watch)
    points = case.points
    assert seen == [(p.name, p.channels, (14 // p.stride, 20 // p.stride)) for p in points]
    assert [p.index for p in points] == list(range(len(points)))
    assert points[-1].is_prediction


def test_features_are_views(case):
    """Of what the network holds anyway: nothing is copied where nothing is fused. Their channels lie together."""

    def watch(point, features, state):
        (feature,) = features
        if not point.is_prediction:
            _, channels, _, width = feature.shape
            assert feature.stride()[1:] == (1, width * channels, channels)
        return features

    by_stream(case, case.inputs(), fusion=watch)


def test_what_is_replaced_is_the_noisy_picture(case):
    """Position by position: a feature of one place alters the prediction there most of all, the first and last ones too."""
    inputs = case.inputs(size=(8, 12))
    plain = by_stream(case, inputs)
    last = len(case.points) - 2
    for row, column in [(0, 0), (3, 5), (1, 2)]:

        def move(point, features, state, row=row, column=column):
            (feature,) = features
            if point.index != last:
                return features
            moved = feature.clone()
            moved[:, :, row, column] += 5.0
            return [moved]

        changed = (by_stream(case, inputs, fusion=move) - plain).abs().reshape(2, 16, 4, 2, 6, 2).sum((0, 1, 3, 5))
        assert changed[row, column] > 0
        changed[row, column] = 0
        assert not changed.any(), "behind the last block every place stands for itself"


# ------------------------------------------------------------------ several experts
def average(point, features, state):
    from afa_core.fusion.fusion import blend

    fused, _ = blend(features, torch.zeros(1, len(features), 1, 1))
    return [fused] * len(features)


def test_copies_of_one_expert_on_one_network_equal_it(case):
    inputs = case.inputs()
    assert torch.equal(by_stream(case, inputs, experts=[case] * 3, fusion=average), by_host(case, inputs))


@pytest.mark.parametrize("chosen", [0, 1])
def test_following_one_expert_equals_it(case, comfy_host, chosen):
    twin = (
        load(comfy_host, case.name[:-1] + "b") if case.family != "schnell" else load(comfy_host, "tiny_flux_b")
    )

    def follow(point, features, state):
        return [features[chosen].view_as(features[chosen])] * 2

    inputs = case.inputs()
    expected = by_host([case, twin][chosen], inputs)
    assert torch.equal(by_stream(case, inputs, experts=[case, twin], fusion=follow), expected)


def test_embeddings_are_the_first_blocks(case):
    """Alike for equal inputs, another text or time makes others; the host's blocks do not write into them."""
    seen = []

    def watch(point, features, state):
        (embeddings,) = state.embeddings
        seen.append((embeddings.time.clone(), embeddings.text.clone()))
        return features

    inputs = case.inputs()
    by_stream(case, inputs, fusion=watch)
    for time, text in seen:
        assert torch.equal(time, seen[0][0])
        assert torch.equal(text, seen[0][1])
    time, text = seen[0]
    assert not torch.equal(time[0], time[1])
    seen.clear()
    by_stream(case, {**inputs, "context": 2 * inputs["context"].flip(1)}, fusion=watch)
    assert not torch.equal(seen[0][1], text)
