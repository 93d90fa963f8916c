"""Merges on a real ComfyUI, beside its own merging nodes."""

import re

import pytest
import torch
from safetensors.torch import load_file

from afa_core.host.architectures.unet_layout import unet_merge_blocks
from tests.support.comfy.bootstrap import REPOSITORY
from tests.support.transformers import TOYS, load

HELP = (REPOSITORY / "js" / "docs" / "AFAMergeModels.md").read_text()


def blocks_in_the_help(family: str) -> list[str]:
    """The names of blocks that the page's table gives for a family."""
    rows = [line.split("|")[1:3] for line in HELP.splitlines() if line.startswith("|")]
    (names,) = [blocks for families, blocks in rows if family in families.strip().split(", ")]
    return re.findall("`(.*?)`", names)


def test_the_help_names_the_blocks_of_unets():
    for family, sides in (("SD1.x", 12), ("SD2.x", 12), ("SDXL", 9)):
        blocks = list(unet_merge_blocks(sides, sides))
        assert blocks_in_the_help(family) == [blocks[i] for i in (0, sides - 1, sides, sides + 1, -1)]


@pytest.mark.parametrize("toy", TOYS)
def test_help_and_tooltip_name_the_blocks_of_transformers(pack, comfy_host, toy):
    case = load(comfy_host, toy)
    firsts = [name for name in case.architecture.merge_blocks(case.model) if name.endswith("00")]
    named = blocks_in_the_help(case.architecture.name(case.model))
    assert [name for name in named if name.endswith("00")] == firsts
    assert {name.rstrip("0123456789") for name in named} == {name.rstrip("0") for name in firsts}
    node = comfy_host.nodes.NODE_CLASS_MAPPINGS["AFAMergeModels"]
    tooltip = node.INPUT_TYPES()["optional"]["block_weights"][1]["tooltip"]
    assert set(firsts) <= set(re.findall(r"\w+", tooltip))


def weights_of(model):
    """The U-Net's weights as they are once the host has loaded the model."""
    import comfy.model_management

    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
        state = model.model.diffusion_model.state_dict()
        return {key: tensor.clone() for key, tensor in state.items()}


def assert_same(one, other, tolerance=0.0):
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(
            one[key], other[key], rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
def test_two_models_as_the_hosts_simple_merge(pack, comfy_host, checkpoint, ratio):
    a, b = checkpoint("tiny_sd15_a")[0], checkpoint("tiny_sd15_b")[0]
    theirs = comfy_host.call("ModelMergeSimple", model1=a, model2=b, ratio=ratio)[0]
    ours = comfy_host.call("AFAMergeModels", model_1=a, model_2=b, weights=f"{ratio}, {1 - ratio}")[0]
    expected = weights_of(theirs)
    theirs.detach()
    assert_same(weights_of(ours), expected)


@pytest.mark.parametrize(("family", "node"), [("tiny_sd15", "ModelMergeSD1"), ("tiny_sdxl", "ModelMergeSDXL")])
def test_two_models_as_the_hosts_block_sliders(pack, comfy_host, checkpoint, family, node):
    a, b = checkpoint(f"{family}_a")[0], checkpoint(f"{family}_b")[0]
    names = [n for n in comfy_host.nodes.NODE_CLASS_MAPPINGS[node].INPUT_TYPES()["required"] if "model" not in n]
    generator = torch.Generator().manual_seed(0)
    sliders = {name: round(torch.rand((), generator=generator).item(), 2) for name in names}
    theirs = comfy_host.call(node, model1=a, model2=b, **sliders)[0]
    # SDXL's sliders say input_blocks.1 for what is input_blocks.1. in the network.
    rows = {name if name.endswith(".") else name + ".": ratio for name, ratio in sliders.items()}
    if family == "tiny_sd15":
        del rows["label_emb."]  # this network has none
    table = "\n".join(f"{name} {ratio}, {1 - ratio}" for name, ratio in rows.items())
    ours = comfy_host.call("AFAMergeModels", model_1=a, model_2=b, block_weights=table)[0]
    expected = weights_of(theirs)
    theirs.detach()
    assert_same(weights_of(ours), expected, 1e-6)


def test_four_models_as_a_plain_sum_of_state_dicts(pack, comfy_host, checkpoint):
    models = [checkpoint(f"golden_{i}")[0] for i in range(4)]
    plain = [weights_of(checkpoint(f"golden_{i}")[0]) for i in range(4)]
    table = "OUT00-OUT11 0, 0, 1, 3\nM00 0 0 1 0"
    merged = comfy_host.call(
        "AFAMergeModels", **{f"model_{i + 1}": model for i, model in enumerate(models)}, weights="4, 3, 2, 1",
        block_weights=table,
    )[0]  # fmt: skip

    def shares(key):
        if key.startswith("middle_block."):
            return 0, 0, 1, 0
        return (0, 0, 0.25, 0.75) if key.startswith(("output_blocks.", "out.")) else (0.4, 0.3, 0.2, 0.1)

    expected = {key: sum(w * state[key] for w, state in zip(shares(key), plain, strict=True)) for key in plain[0]}
    assert_same(weights_of(merged), expected, 1e-5)
    assert not [key for key in merged.patches if not key.startswith("diffusion_model.")]


@pytest.mark.parametrize("extrapolation", [0.0, 1.0, 1.5])
def test_a_merge_goes_on_away_from_its_base(pack, comfy_host, checkpoint, extrapolation):
    names = ("golden_0", "golden_1", "golden_2")
    one, two, base = (weights_of(checkpoint(name)[0]) for name in names)
    first, second, third = (checkpoint(name)[0] for name in names)
    model = comfy_host.call(
        "AFAMergeModels", model_1=first, model_2=second, weights="1, 3", base=third, extrapolation=extrapolation
    )[0]
    expected = {key: base[key] + extrapolation * ((one[key] + 3 * two[key]) / 4 - base[key]) for key in base}
    assert_same(weights_of(model), expected, 1e-5)


def test_models_bring_their_loras(pack, comfy_host, checkpoint):
    """One checkpoint with and without a LoRA merges to the checkpoint with half of the LoRA."""
    plain = checkpoint("tiny_sd15_a")[0]
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    with torch.inference_mode():
        delta = torch.randn_like(plain.model_state_dict()[key])
        with_lora, with_half = plain.clone(), plain.clone()
        with_lora.add_patches({key: (delta,)}, 0.8)
        with_half.add_patches({key: (delta,)}, 0.4)
    expected = weights_of(with_half)
    with_half.detach()
    for first, second in ((plain, with_lora), (with_lora, plain)):
        merged = comfy_host.call("AFAMergeModels", model_1=first, model_2=second)[0]
        assert_same(weights_of(merged), expected, 1e-6)
        merged.detach()
    untouched = weights_of(checkpoint("tiny_sd15_a")[0])
    assert not torch.equal(
        untouched[key.removeprefix("diffusion_model.")], expected[key.removeprefix("diffusion_model.")]
    )
    assert_same(weights_of(plain), untouched)


def in_scaled_fp8(host, name, factor=1.0):
    """A transformer as its file in fp8 is loaded: every matrix, of so many times its size, has a scale beside it."""
    import comfy.sd

    state = load_file(host.folder_paths.get_full_path("diffusion_models", f"{name}.safetensors"))
    for key in [key for key, weight in state.items() if weight.ndim == 2]:
        matrix = factor * state[key].float()
        scale = matrix.abs().max() / 448
        state[key] = (matrix / scale).to(torch.float8_e4m3fn)
        state[f"{key.removesuffix('weight')}scale_weight"] = scale
    state["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    with torch.inference_mode():
        return comfy.sd.load_diffusion_model_state_dict(state)


def test_one_model_in_scaled_fp8_as_the_hosts_simple_merge(pack, comfy_host):
    scaled, plain = in_scaled_fp8(comfy_host, "tiny_flux_a"), load(comfy_host, "tiny_flux_b").patcher
    theirs = comfy_host.call("ModelMergeSimple", model1=scaled, model2=plain, ratio=0.3)[0]
    ours = comfy_host.call("AFAMergeModels", model_1=scaled, model_2=plain, weights="0.3, 0.7")[0]
    assert scaled.model_state_dict().keys() - plain.model_state_dict().keys(), "scales, whatever a host calls them"
    assert ours.patches.keys() == theirs.patches.keys()
    for key, (theirs_at_key,) in theirs.patches.items():
        assert ours.patches[key][0][::2] == pytest.approx(theirs_at_key[::2])
        assert ours.patches[key][0][1][0][0] is theirs_at_key[1][0][0]


def test_two_models_in_scaled_fp8_keep_the_scales_of_the_first(pack, comfy_host):
    """A merged weight is written by the first model's scales: they are no weights to be merged."""
    import comfy.model_management

    first, second = (in_scaled_fp8(comfy_host, f"tiny_flux_{name}", size) for name, size in (("a", 1.0), ("b", 0.25)))
    with torch.inference_mode():
        whole = [load(comfy_host, f"tiny_flux_{name}").network.double_blocks[0].img_attn.proj.weight.float() for name in "ab"]
        try:
            merged = comfy_host.call("AFAMergeModels", model_1=first, model_2=second)[0]
        except ValueError as error:
            pytest.skip(str(error))
        comfy.model_management.load_models_gpu([merged])
        layer = merged.model.diffusion_model.double_blocks[0].img_attn.proj
        unit = torch.eye(layer.in_features)
        found = (layer(unit) - layer(torch.zeros_like(unit))).T.float()
        expected = (whole[0] + 0.25 * whole[1]).detach() / 2
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1 * expected.abs().max().item())


@pytest.mark.parametrize("place", ["model_2", "base"])
def test_a_model_that_the_host_cannot_merge_is_named(pack, comfy_host, checkpoint, place):
    """Newer hosts save what a quantized layer is stored in beside its weight, and find no such attribute."""
    a, b, c = (checkpoint(f"golden_{i}")[0] for i in range(3))
    models = {"model_1": a, "model_2": b, "base": c}
    layer = models[place].model.diffusion_model.time_embed[0]
    layer.register_state_dict_post_hook(
        lambda module, state, prefix, _: state.update({f"{prefix}comfy_quant": torch.zeros(1)})
    )
    with pytest.raises(
        ValueError, match=f"{place} is quantized in a way that this ComfyUI cannot merge: connect its file"
    ):
        comfy_host.call("AFAMergeModels", **models, extrapolation=1.5)


def test_merging_computes_nothing_before_the_model_is_loaded(pack, comfy_host, checkpoint):
    a, b = checkpoint("tiny_sd15_a")[0], checkpoint("tiny_sd15_b")[0]
    before = a.model.diffusion_model.state_dict()["time_embed.0.weight"].clone()
    merged = comfy_host.call("AFAMergeModels", model_1=a, model_2=b)[0]
    assert merged.is_clone(a)
    assert torch.equal(merged.model.diffusion_model.state_dict()["time_embed.0.weight"], before)


@pytest.mark.parametrize(
    ("other", "inputs", "words"),
    [
        ("tiny_sd2_a", {}, "one architecture"),
        ("tiny_sdxl_a", {}, "one architecture"),
        ("tiny_sd15_v", {}, "predicts v_prediction and model_1 eps"),
        ("tiny_sd15_b", {"block_weights": "tme_embed. 1, 0"}, "names tme_embed"),
    ],
)
def test_what_cannot_be_merged_is_refused(pack, comfy_host, checkpoint, other, inputs, words):
    with pytest.raises(ValueError, match=words):
        comfy_host.call("AFAMergeModels", model_1=checkpoint("tiny_sd15_a")[0], model_2=checkpoint(other)[0], **inputs)


def test_a_merge_samples(pack, comfy_host, checkpoint, encode, sample):
    a, clip, _ = checkpoint("tiny_sdxl_a")
    merged = comfy_host.call("AFAMergeModels", model_1=a, model_2=checkpoint("tiny_sdxl_b")[0], preset="GRAD_V")[0]
    text = encode(clip, "a cat")
    assert not torch.equal(sample(merged, text, text), sample(a, text, text))
