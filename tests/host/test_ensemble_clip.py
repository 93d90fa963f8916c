"""Every expert reads the prompt through its own text encoder, whatever nodes lie between."""

import pytest
import torch

from tests.host.test_checkpoints import lora_file
from tests.support.ensembles import certain_aggregator, ensemble

TEXT_LAYER = ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 32, 32)
PROMPT = "a cat, (a hat:1.3)"


@pytest.fixture
def toys(checkpoint, pack):
    """(model, clip) of two SD1.5 toys."""
    return [checkpoint(name)[:2] for name in ("tiny_sd15_a", "tiny_sd15_b")]


@pytest.fixture
def join(comfy_host, pack):
    return lambda one, two: comfy_host.call("AFAEnsembleCLIP", clip_1=one, clip_2=two)[0]


@pytest.fixture
def lora(comfy_host):
    """lora(clip) -> the clip with a LoRA on it."""
    lora_file(comfy_host.base / "models" / "loras" / "text.safetensors", TEXT_LAYER)
    return lambda clip: comfy_host.call(
        "LoraLoader", model=None, clip=clip, lora_name="text.safetensors", strength_model=0.0, strength_clip=1.0
    )[1]


def assert_same(one, other):
    """Of two plain conditionings: texts and what goes with them."""
    assert len(one) == len(other)
    for (text, extras), (expected, expected_extras) in zip(one, other, strict=True):
        assert torch.equal(text, expected)
        assert extras.keys() == expected_extras.keys()
        for key, value in expected_extras.items():
            same = torch.equal(extras[key], value) if isinstance(value, torch.Tensor) else extras[key] == value
            assert same, key


def each(conditioning):
    """The plain conditionings of the experts, out of one that carries them."""
    own = [[text, {k: v for k, v in extras.items() if not k.startswith("afa_")}] for text, extras in conditioning]
    carried = [extras["afa_conds"] for _, extras in conditioning]
    return [own, *([list(entry[i]) for entry in carried] for i in range(len(carried[0])))]


def assert_read_by(conditioning, expected):
    """Each expert's text is its own, and they differ."""
    found = each(conditioning)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    assert not torch.equal(found[0][0][0], found[1][0][0])


# ---- encoding ----


def test_each_reads_through_its_own(encode, toys, join):
    (_, one), (_, two) = toys
    assert_read_by(encode(join(one, two), PROMPT), [encode(one, PROMPT), encode(two, PROMPT)])


def test_eight_of_them(comfy_host, encode, toys, pack):
    clips = [clip for _, clip in toys] * 4
    joined = comfy_host.call("AFAEnsembleCLIP", **{f"clip_{i}": clip for i, clip in enumerate(clips, start=1)})[0]
    assert_read_by(encode(joined, PROMPT), [encode(clip, PROMPT) for clip in clips])


def test_an_option_of_the_tokenizer_is_every_experts(toys, join):
    (_, one), (_, two) = toys
    joined = join(one, two).clone()
    joined.set_tokenizer_option("t5xxl_min_length", 512)
    assert [member.tokenizer_options for member in joined.members()] == [{"t5xxl_min_length": 512}] * 2


@pytest.mark.parametrize("place", ["ensemble", "second", "first"])
def test_clip_skip(comfy_host, encode, toys, join, place):
    (_, one), (_, two) = toys

    def skip(clip):
        return comfy_host.call("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-2)[0]

    if place == "ensemble":
        found, expected = skip(join(one, two)), [skip(one), skip(two)]
    elif place == "second":
        found, expected = join(one, skip(two)), [one, skip(two)]
    else:
        found, expected = join(skip(one), two), [skip(one), two]
    assert_read_by(encode(found, PROMPT), [encode(clip, PROMPT) for clip in expected])
    assert not torch.equal(encode(skip(two), PROMPT)[0][0], encode(two, PROMPT)[0][0])


@pytest.mark.parametrize("place", ["ensemble", "second", "first", "second and ensemble"])
def test_a_lora(encode, toys, join, lora, place):
    (_, one), (_, two) = toys
    if place == "ensemble":
        found, expected = lora(join(one, two)), [lora(one), lora(two)]
    elif place == "second":
        found, expected = join(one, lora(two)), [one, lora(two)]
    elif place == "first":
        found, expected = join(lora(one), two), [lora(one), two]
    else:
        found, expected = lora(join(one, lora(two))), [lora(one), lora(lora(two))]
    assert_read_by(encode(found, PROMPT), [encode(clip, PROMPT) for clip in expected])
    assert not torch.equal(encode(lora(two), PROMPT)[0][0], encode(two, PROMPT)[0][0])


def test_what_is_put_on_a_clone_stays_there(comfy_host, encode, toys, join, lora):
    (_, one), (_, two) = toys
    plain = join(one, two)
    lora(plain)
    comfy_host.call("CLIPSetLastLayer", clip=plain, stop_at_clip_layer=-2)
    assert_read_by(encode(plain, PROMPT), [encode(one, PROMPT), encode(two, PROMPT)])
    assert encode(one, PROMPT)[0][1].keys().isdisjoint({"afa_conds", "afa_encoded"})


def test_one_text_encoder_twice_with_a_lora_on_one(encode, toys, join, lora):
    clip = toys[0][1]
    assert_read_by(encode(join(clip, lora(clip)), PROMPT), [encode(clip, PROMPT), encode(lora(clip), PROMPT)])


def hooked(host, name, scheduled):
    """hook(clip): the clip under a LoRA, which is scheduled to begin at half of sampling or acts throughout."""
    hooks = host.call("CreateHookLora", lora_name=name, strength_model=0.0, strength_clip=1.0)[0]
    if scheduled:
        keyframes = host.call("CreateHookKeyframe", strength_mult=0.0, start_percent=0.0)[0]
        keyframes = host.call("CreateHookKeyframe", prev_hook_kf=keyframes, strength_mult=1.0, start_percent=0.5)[0]
        hooks = host.call("SetHookKeyframes", hooks=hooks, hook_kf=keyframes)[0]
    return lambda clip: host.call("SetClipHooks", clip=clip, hooks=hooks, apply_to_conds=True, schedule_clip=scheduled)[
        0
    ]


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("place", ["ensemble", "second", "first"])
def test_hooks_and_schedules(comfy_host, encode, toys, join, lora, scheduled, place):
    (_, one), (_, two) = toys
    hook = hooked(comfy_host, "text.safetensors", scheduled)
    clips = {"ensemble": hook(join(one, two)), "second": join(one, hook(two)), "first": join(hook(one), two)}
    found = each(encode(clips[place], PROMPT))
    expected = [
        encode(hook(one) if place != "second" else one, PROMPT),
        encode(hook(two) if place != "first" else two, PROMPT),
    ]
    parts = 2 if scheduled else 1
    assert not torch.equal(encode(hook(two), PROMPT)[-1][0], encode(two, PROMPT)[0][0])
    for text, other in zip(found, expected, strict=True):
        assert all(
            torch.equal(part[0], whole[0]) for part, whole in zip(text, other * (parts // len(other)), strict=True)
        )
    if scheduled:
        spans = [[(extras["clip_start_percent"], extras["clip_end_percent"]) for _, extras in text] for text in found]
        assert spans == [[(0.0, 0.5), (0.5, 1.0)]] * 2


def test_sdxl_with_its_own_node(comfy_host, checkpoint, join, sample):
    (a, one, _), (b, two, _) = checkpoint("tiny_sdxl_a"), checkpoint("tiny_sdxl_b")
    sizes = {"width": 512, "height": 640, "crop_w": 8, "crop_h": 16, "target_width": 512, "target_height": 640}

    def encode(clip, text):
        return comfy_host.call("CLIPTextEncodeSDXL", clip=clip, text_g=text, text_l="a hat", **sizes)[0]

    joined = join(one, two)
    assert_read_by(encode(joined, PROMPT), [encode(one, PROMPT), encode(two, PROMPT)])
    follows_second = ensemble(comfy_host, certain_aggregator(a, 2, 1), a, b)
    expected = sample(b, encode(two, PROMPT), encode(two, ""))
    assert torch.equal(sample(follows_second, encode(joined, PROMPT), encode(joined, "")), expected)


# ---- what nodes make of an encoded prompt ----


def blend(host, **widgets):
    """The pack's node on an ensemble's prompts, and the host's own on plain ones."""

    def call(one, other, carried):
        if carried:
            return host.call("AFABlendConditioning", conditioning_to=one, conditioning_from=other, **widgets)[0]
        if widgets["method"] == "concat":
            return host.call("ConditioningConcat", conditioning_to=one, conditioning_from=other)[0]
        strength = widgets["conditioning_to_strength"]
        node = {"conditioning_to": one, "conditioning_from": other, "conditioning_to_strength": strength}
        return host.call("ConditioningAverage", **node)[0]

    return call


def changes(host):
    """(prompt, other prompt, whether they carry the experts' texts) -> prompt, by name."""

    def timed(one, other):
        one = host.call("ConditioningSetTimestepRange", conditioning=one, start=0.0, end=0.5)[0]
        other = host.call("ConditioningSetTimestepRange", conditioning=other, start=0.5, end=1.0)[0]
        return host.call("ConditioningCombine", conditioning_1=one, conditioning_2=other)[0]

    def area(one, other):
        half = {"width": 32, "height": 64, "x": 32, "y": 0, "strength": 0.8}
        other = host.nodes.NODE_CLASS_MAPPINGS["ConditioningSetArea"]().append(other, **half)[0]
        return host.call("ConditioningCombine", conditioning_1=one, conditioning_2=other)[0]

    def masked(one, other):
        mask = torch.zeros(1, 64, 64)
        mask[:, :, 32:] = 1
        other = host.call("ConditioningSetMask", conditioning=other, mask=mask, strength=1.0, set_cond_area="default")[
            0
        ]
        return host.call("ConditioningCombine", conditioning_1=one, conditioning_2=other)[0]

    return {
        "as it is": lambda one, other, carried: one,
        "combined": lambda one, other, carried: host.call(
            "ConditioningCombine", conditioning_1=one, conditioning_2=other
        )[0],
        "area": lambda one, other, carried: area(one, other),
        "mask": lambda one, other, carried: masked(one, other),
        "timestep range": lambda one, other, carried: timed(one, other),
        "zero out": lambda one, other, carried: host.call("ConditioningZeroOut", conditioning=one)[0],
        "concat": blend(host, method="concat"),
        "average": blend(host, method="average", conditioning_to_strength=0.3),
    }


CHANGES = ["as it is", "combined", "area", "mask", "timestep range", "zero out", "concat", "average"]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("family", ["tiny_sd15", "tiny_sdxl"])
def test_an_ensemble_that_follows_one_expert_reads_its_prompt(
    comfy_host, checkpoint, encode, sample, join, family, change
):
    (a, one, _), (b, two, _) = checkpoint(f"{family}_a"), checkpoint(f"{family}_b")
    make = changes(comfy_host)[change]
    follows_second = ensemble(comfy_host, certain_aggregator(a, 2, 1), a, b)

    def prompt(clip, carried):
        return make(encode(clip, "a cat"), encode(clip, "a dog"), carried), encode(clip, "")

    expected = sample(b, *prompt(two, False))
    assert torch.equal(sample(follows_second, *prompt(join(one, two), True)), expected)
    assert not torch.equal(sample(b, *prompt(one, False)), expected)  # the other's prompt would be noticed


def test_blending_plain_prompts_is_what_the_host_does(comfy_host, encode, toys):
    cat, dog = (encode(toys[0][1], text) for text in ("a cat", "a dog"))
    for name in ("concat", "average"):
        make = changes(comfy_host)[name]
        assert_same(make(cat, dog, True), make(cat, dog, False))


def test_blending_a_carried_and_a_plain_prompt(comfy_host, encode, toys, join):
    """The plain one is everybody's."""
    (_, one), (_, two) = toys
    carried, plain = encode(join(one, two), "a cat"), encode(one, "a dog")
    make = changes(comfy_host)["concat"]
    expected = [make(encode(clip, "a cat"), plain, False) for clip in (one, two)]
    assert_read_by(make(carried, plain, True), expected)


def test_prompts_for_different_ensembles_are_not_blended(comfy_host, encode, toys, join):
    from afa_core.host.experts.experts import ExpertError

    (_, one), (_, two) = toys
    three = comfy_host.call("AFAEnsembleCLIP", clip_1=one, clip_2=two, clip_3=one)[0]
    with pytest.raises(
        ExpertError, match="carry text for 2 and 3 experts: encode both with the same AFA Ensemble CLIP"
    ):
        changes(comfy_host)["concat"](encode(join(one, two), "a"), encode(three, "b"), True)
