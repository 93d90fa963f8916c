"""Everything that does not fit is refused before memory is spent, and both sides are named."""

import json

import pytest
import torch

from afa_core.fusion.fusion import FusionError
from tests.support.aggregators import random_aggregator, small_config
from tests.support.ensembles import config_for, ensemble, training_free
from tests.support.refusing import refused

pytestmark = pytest.mark.usefixtures("pack")


# ---- models that do not go together ----


@pytest.mark.parametrize("method", ["block average", "noise average"])
def test_another_architecture(comfy_host, models, expert_error, method):
    text = refused(expert_error, lambda: ensemble(comfy_host, method, *models("tiny_sd15_a", "tiny_sdxl_a")))
    assert "model_2" in text and "model_1" in text
    assert "text width 64" in text and "text width 32" in text
    assert "needs checkpoints of one architecture" in text


def test_another_width(comfy_host, models, expert_error):
    text = refused(expert_error, lambda: ensemble(comfy_host, "block average", *models("tiny_sd15_a", "golden_0")))
    assert "(model_channels 32)" in text and "(model_channels 64)" in text


def test_another_number_of_latent_channels(comfy_host, checkpoint, expert_error):
    """An inpainting checkpoint, which reads nine channels, beside an ordinary one."""
    from safetensors.torch import load_file, save_file

    folder = comfy_host.base / "models" / "checkpoints"
    state = load_file(folder / "tiny_sd15_b.safetensors")
    key = "model.diffusion_model.input_blocks.0.0.weight"
    state[key] = torch.cat([state[key], torch.zeros(len(state[key]), 5, 3, 3, dtype=torch.float16)], dim=1)
    save_file(state, folder / "inpainting.safetensors")
    try:
        models = [checkpoint("tiny_sd15_a")[0], checkpoint("inpainting")[0]]
    finally:
        (folder / "inpainting.safetensors").unlink()
    text = refused(expert_error, lambda: ensemble(comfy_host, "block average", *models))
    assert "model_2" in text and "in_channels 9" in text and "in_channels 4" in text


def test_another_latent_space(comfy_host, models, expert_error):
    """As between SDXL and Playground 2.5, which share the U-Net but not the latents."""
    import comfy.latent_formats

    first, second = models("tiny_sdxl_a", "tiny_sdxl_b")
    second.model.latent_format = comfy.latent_formats.SDXL_Playground_2_5()
    text = refused(expert_error, lambda: ensemble(comfy_host, "block average", first, second))
    assert "model_2 and model_1 paint in different latent spaces (SDXL_Playground_2_5 and SDXL)" in text


@pytest.mark.parametrize(
    ("node", "widgets", "kind"),
    [
        ("ModelSamplingSD3", {"shift": 3.0}, "const"),
        ("ModelSamplingContinuousEDM", {"sampling": "edm", "sigma_max": 80.0, "sigma_min": 0.002}, "edm"),
    ],
)
def test_another_way_of_adding_noise(comfy_host, models, expert_error, node, widgets, kind):
    first, second = models("tiny_sd15_a", "tiny_sd15_b")
    second = comfy_host.call(node, model=second, **widgets)[0]
    text = refused(expert_error, lambda: ensemble(comfy_host, "block average", first, second))
    assert f"model_2 ({kind}) and model_1 (eps) add noise in different ways" in text


def test_a_network_that_is_no_unet(comfy_host, models, expert_error):
    first, second = models("tiny_sd15_a", "tiny_sd15_b")
    second.model.diffusion_model = torch.nn.Linear(1, 1)
    text = refused(expert_error, lambda: ensemble(comfy_host, "block average", first, second))
    assert "model_2 is a Linear, and this pack ensembles U-Nets (SD1.x, SD2.x, SDXL)" in text


@pytest.mark.parametrize(("weights", "count"), [("2, 1, 1", 3), ("0,5; 0,5", 4)])
def test_weights_for_another_number_of_models(comfy_host, models, weights, count):
    fusion = training_free(comfy_host, "block average", weights)
    text = refused(FusionError, lambda: ensemble(comfy_host, fusion, *models("tiny_sd15_a", "tiny_sd15_b")))
    assert f"block average has {count} weights, but 2 models are connected" in text
    assert "decimals with a point" in text


def test_a_range_that_ends_before_it_starts(comfy_host, models):
    experts = models("tiny_sd15_a", "tiny_sd15_b")
    text = refused(FusionError, lambda: ensemble(comfy_host, "block average", *experts, start_percent=0.8, end_percent=0.2))
    assert "start_percent 0.8 comes after end_percent 0.2" in text


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ("two, one", "should be numbers such as 2, 1, 1, found 'two, one'"),
        ("-1, 2", "should be numbers of 0 or more and not all 0, found [-1.0, 2.0]"),
        ("0 0", "not all 0, found [0.0, 0.0]"),
        ("nan, 1", "found [nan, 1.0]"),
        ("inf; 1", "found [inf, 1.0]"),
    ],
)
def test_odd_weights(comfy_host, weights, complaint):
    assert complaint in refused(ValueError, lambda: training_free(comfy_host, "noise average", weights))


# ---- a compiled model ----


def compiled(host, model):
    return host.call("TorchCompileModel", model=model, backend="inductor")[0]


@pytest.mark.parametrize("position", [0, 1])
def test_an_expert_that_is_compiled(comfy_host, models, expert_error, position):
    experts = models("tiny_sd15_a", "tiny_sd15_b")
    experts[position] = compiled(comfy_host, experts[position])
    text = refused(expert_error, lambda: ensemble(comfy_host, "block average", *experts))
    assert f"model_{position + 1} is compiled as a whole" in text and "remove the TorchCompileModel node" in text


def test_an_ensemble_that_is_compiled(comfy_host, checkpoint, encode, sample, expert_error):
    (first, clip, _), (second, _, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")
    model = compiled(comfy_host, ensemble(comfy_host, "block average", first, second))
    prompt = encode(clip, "a cat")
    text = refused(expert_error, lambda: sample(model, prompt, prompt))
    assert "The ensemble is compiled as a whole" in text


def test_an_ensemble_with_a_part_of_its_first_expert(comfy_host, checkpoint, encode, sample, expert_error):
    """As nodes do that compile block by block: the part would run in the other experts' place."""
    (first, clip, _), (second, _, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")
    model = ensemble(comfy_host, "block average", first, second)
    model.add_object_patch("diffusion_model.middle_block", first.model.diffusion_model.middle_block)
    prompt = encode(clip, "a cat")
    text = refused(expert_error, lambda: sample(model, prompt, prompt))
    assert "diffusion_model.middle_block" in text and "before AFA Ensemble Model" in text


@pytest.mark.parametrize("position", [0, 1])
def test_an_expert_that_is_an_ensemble(comfy_host, models, expert_error, position):
    experts = models("tiny_sd15_a", "tiny_sd15_b")
    experts[position] = ensemble(comfy_host, "block average", *experts)
    text = refused(expert_error, lambda: ensemble(comfy_host, "block average", *experts))
    assert f"model_{position + 1} is an ensemble itself: connect its checkpoints in its place" in text


# ---- an aggregator that does not fit the models ----


def test_another_number_of_experts(comfy_host, models, expert_error):
    experts = models("tiny_sd15_a", "tiny_sd15_b")
    aggregator = random_aggregator(config_for(experts[0], 3))
    text = refused(expert_error, lambda: ensemble(comfy_host, aggregator, *experts))
    assert "random was trained for 3 experts, and 2 models are connected" in text


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"channels": (64, 64, 4)}, "was made for fusion points of the channels [64, 64, 4], and model_1"),
        ({"text_width": 768}, "(SD1.x) was made for a text width of 768, and model_1"),
        ({"time_width": 1280}, "was made for a time embedding of 1280, and model_1"),
    ],
)
def test_an_aggregator_for_another_architecture(comfy_host, models, expert_error, change, complaint):
    experts = models("tiny_sd15_a", "tiny_sd15_b")
    fitting = config_for(experts[0], 2).to_json()
    config = small_config(**{**fitting, "architecture": "SD1.x", **change})
    text = refused(expert_error, lambda: ensemble(comfy_host, random_aggregator(config), *experts))
    assert complaint in text and "load an aggregator that was trained for this architecture" in text


# ---- prompts ----


def test_text_encoders_of_different_kinds(comfy_host, checkpoint, expert_error):
    clips = {"clip_1": checkpoint("tiny_sd15_a")[1], "clip_2": checkpoint("tiny_sdxl_a")[1]}
    text = refused(expert_error, lambda: comfy_host.call("AFAEnsembleCLIP", **clips))
    assert "clip_2 is a text encoder of SDXL and clip_1 one of SD1" in text


def text_for(*shapes):
    """A conditioning that carries a text of each shape [L, D]."""
    own, *others = (torch.randn(1, *shape) for shape in shapes)
    return [[own, {"pooled_output": None, "afa_conds": [[other, {"pooled_output": None}] for other in others]}]]


@pytest.mark.parametrize(
    ("shapes", "complaint"),
    [
        ([(77, 32)] * 3, "carries text for 3 experts, and 2 models are connected"),
        (
            [(77, 32), (77, 64)],
            "The prompt for model_2 is encoded to a width of 64, and model_2 (U-Net with text",
        ),
        ([(77, 768)], "The prompt for model_1 is encoded to a width of 768"),
        ([(77, 32), (385, 32)], "read the prompt as 77, 385 tokens, and these lengths cannot be matched"),
        ([(231, 32), (154, 32), (385, 32)], "carries text for 3 experts"),
    ],
)
@pytest.mark.parametrize("negative", [False, True])
def test_prompts_that_do_not_fit(comfy_host, models, sample, expert_error, shapes, complaint, negative):
    model = ensemble(comfy_host, "block average", *models("tiny_sd15_a", "tiny_sd15_b"))
    prompts = [text_for((77, 32), (77, 32)), text_for(*shapes)]
    positive, negative = prompts if negative else prompts[::-1]
    assert complaint in refused(expert_error, lambda: sample(model, positive, negative))


@pytest.mark.parametrize("node", ["ConditioningConcat", "ConditioningAverage"])
def test_a_prompt_changed_for_the_first_expert_alone(comfy_host, checkpoint, encode, sample, expert_error, node):
    (a, clip_a, _), (b, clip_b, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")
    clip = comfy_host.call("AFAEnsembleCLIP", clip_1=clip_a, clip_2=clip_b)[0]
    widgets = {"conditioning_to_strength": 0.5} if node == "ConditioningAverage" else {}
    cat, dog = encode(clip, "a cat"), encode(clip, "a dog")
    changed = comfy_host.call(node, conditioning_to=cat, conditioning_from=dog, **widgets)[0]
    model = ensemble(comfy_host, "block average", a, b)
    text = refused(expert_error, lambda: sample(model, changed, dog))
    assert "reach model_1 alone: use AFA Blend Conditioning" in text


def test_an_aggregator_can_be_shown_to_be_json(models):
    """The config that a refusal is about can be written into a file again."""
    config = config_for(models("tiny_sd15_a")[0], 2)
    assert type(config).from_json(json.loads(json.dumps(config.to_json()))) == config
