"""Scorers on small files of the right layouts, against transformers' CLIP with Pillow's preprocessing."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from afa_core.scoring.affine_head import LAYERS, AffineHead
from afa_core.scoring.pictures import fit_into_square
from tests.support.small_clip import small_clip

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
PROMPTS = ["a red cat", "two dogs on a (very:1.5) long walk through the rain " * 12]


# ---- the independent side ----


@pytest.fixture(scope="module")
def clips(comfy_host):
    """clips(activation) -> a small CLIPModel of transformers with random weights."""
    return small_clip


def tokens_of(prompts):
    import comfy.sd1_clip

    tokenizer = comfy.sd1_clip.SDTokenizer().tokenizer
    return tokenizer(prompts, padding=True, max_length=77, truncation=True, return_tensors="pt")


def cropped(picture):
    """Pillow: shortest side to 224, bicubic; centre."""
    image = to_pillow(picture)
    scale = 224 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return normalised(image.crop((left, top, left + 224, top + 224)))


def padded(picture):
    """Pillow: longest side to 224, bicubic, on black."""
    image = to_pillow(picture)
    scale = 224 / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (224, 224))
    canvas.paste(image, ((224 - image.width) // 2, (224 - image.height) // 2))
    return normalised(canvas)


def to_pillow(picture):
    return Image.fromarray((picture.numpy() * 255).round().astype(np.uint8))


def normalised(image):
    return (torch.from_numpy(np.array(image)).movedim(-1, 0) / 255 - MEAN) / STD


def expected_images(model, pictures, preprocess):
    pixels = torch.stack([preprocess(picture) for picture in pictures])
    with torch.inference_mode():
        pooled = model.vision_model(pixel_values=pixels).pooler_output
        return torch.nn.functional.normalize(model.visual_projection(pooled), dim=-1)


def expected_cosines(model, pictures, prompts, preprocess):
    with torch.inference_mode():
        pooled = model.text_model(**tokens_of(prompts)).pooler_output
        texts = torch.nn.functional.normalize(model.text_projection(pooled), dim=-1)
    return (expected_images(model, pictures, preprocess) * texts).sum(-1)


def open_clip_layout(model):
    """The same weights under OpenCLIP's names."""
    state = model.state_dict()
    found = {
        "logit_scale": state["logit_scale"],
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T.contiguous(),
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
    }
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    names["self_attn.out_proj"] = "attn.out_proj"
    towers = [("vision_model", "visual.", model.vision_model), ("text_model", "", model.text_model)]
    for tower, prefix, module in towers:
        for i in range(len(module.encoder.layers)):
            for part in ("weight", "bias"):
                theirs, ours = f"{tower}.encoder.layers.{i}.", f"{prefix}transformer.resblocks.{i}."
                for name, short in names.items():
                    found[f"{ours}{short}.{part}"] = state[f"{theirs}{name}.{part}"]
                qkv = [state[f"{theirs}self_attn.{x}_proj.{part}"] for x in "qkv"]
                found[f"{ours}attn.in_proj_{part}"] = torch.cat(qkv)
    for part in ("weight", "bias"):
        found[f"visual.ln_pre.{part}"] = state[f"vision_model.pre_layrnorm.{part}"]
        found[f"visual.ln_post.{part}"] = state[f"vision_model.post_layernorm.{part}"]
        found[f"ln_final.{part}"] = state[f"text_model.final_layer_norm.{part}"]
    return found


# ---- fixtures ----


@pytest.fixture
def model_file(pack, comfy_host):
    """model_file("clip_vision/x.safetensors", state): puts a file below models/ for the length of a test."""
    written = []

    def write(name, state):
        path = comfy_host.base / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
        else:
            torch.save(state, path)
        written.append(path)
        return path

    yield write
    for path in written:
        path.unlink()


@pytest.fixture
def pictures():
    """Two smooth pictures of 300 x 260 in steps of 1/255, so that Pillow can hold them exactly."""
    generator = torch.Generator().manual_seed(1)
    small = torch.rand(2, 3, 9, 8, generator=generator)
    large = torch.nn.functional.interpolate(small, (300, 260), mode="bicubic").clamp(0, 1)
    return (large * 255).round().movedim(1, -1) / 255


def scores(comfy_host, **inputs):
    text, mean = comfy_host.call("AFAScoreImages", **inputs)
    return json.loads(text), mean


# ---- scores ----


def test_clip_t(comfy_host, clips, model_file, pictures):
    model = clips("quick_gelu")
    model_file("clip_vision/clip-vit-large-patch14.safetensors", model.state_dict())
    report, mean = scores(comfy_host, images=pictures, prompt="\n".join(PROMPTS), scorer="CLIP-T")
    expected = expected_cosines(model, pictures, PROMPTS, cropped)
    assert report["CLIP-T"]["images"] == pytest.approx(expected.tolist(), abs=2e-3)
    assert mean == pytest.approx(expected.mean().item(), abs=2e-3)
    assert report["CLIP-T"]["standard_error"] > 0


@pytest.mark.parametrize(
    ("scorer", "file", "activation", "scale"),
    [
        ("CLIP-T", "openai_clip-vit-large-patch14/model.safetensors", "quick_gelu", 1),
        ("PickScore", "PickScore_v1/model.safetensors", "gelu", np.exp(3.0)),
        ("HPSv2.1", "HPS_v2.1_compressed.safetensors", "gelu", 1),
    ],
)
def test_scores_to_the_last_digit(comfy_host, clips, model_file, scorer, file, activation, scale):
    """A picture that needs no resizing leaves no room for differences: the wrong activation shows."""
    model = clips(activation)
    model_file(f"clip_vision/{file}", model.state_dict())
    picture = torch.randint(0, 256, (1, 224, 224, 3), generator=torch.Generator().manual_seed(0)) / 255
    report, _ = scores(comfy_host, images=picture, prompt=PROMPTS[0], scorer=scorer)
    right, wrong = (
        scale * expected_cosines(clips(name), picture, PROMPTS[:1], cropped).item()
        for name in (activation, {"gelu": "quick_gelu", "quick_gelu": "gelu"}[activation])
    )
    assert report[scorer]["images"][0] == pytest.approx(right, abs=1e-5 * scale)
    assert abs(right - wrong) > 5e-5 * scale


def test_pickscore(comfy_host, clips, model_file, pictures):
    model = clips("gelu")
    model_file("clip_vision/PickScore_v1.safetensors", model.state_dict())
    report, _ = scores(comfy_host, images=pictures, prompt="\n".join(PROMPTS), scorer="PickScore")
    expected = np.exp(3.0) * expected_cosines(model, pictures, PROMPTS, cropped)
    assert report["PickScore"]["images"] == pytest.approx(expected.tolist(), abs=4e-2)


@pytest.mark.parametrize(
    ("scorer", "file"),
    [("HPSv2.0", "hpsv2/HPS_v2_compressed.pt"), ("HPSv2.1", "hpsv2/HPS_v2.1_compressed.pt")],
)
def test_hps(comfy_host, clips, model_file, pictures, scorer, file):
    model = clips("gelu")
    model_file(f"clip_vision/{file}", {"state_dict": open_clip_layout(model), "epoch": 1})
    report, _ = scores(comfy_host, images=pictures, prompt="\n".join(PROMPTS), scorer=scorer)
    expected = expected_cosines(model, pictures, PROMPTS, padded)
    assert report[scorer]["images"] == pytest.approx(expected.tolist(), abs=2e-3)
    other = expected_cosines(model, pictures, PROMPTS, cropped)
    assert (expected - other).abs().max() > 4e-3  # padding is not cropping


def test_hps_versions_are_not_mixed_up(comfy_host, clips, model_file, pictures):
    state = {"state_dict": open_clip_layout(clips("gelu"))}
    model_file("clip_vision/hpsv2/HPS_v2.1_compressed.pt", state)
    with pytest.raises(ValueError, match="HPSv2.0 needs a file"):
        scores(comfy_host, images=pictures, prompt="x", scorer="HPSv2.0")


def test_clip_i(comfy_host, clips, model_file, pictures):
    model = clips("quick_gelu")
    vision_only = {k: v for k, v in model.state_dict().items() if k.startswith("vis")}
    model_file("clip_vision/clip-vit-large-patch14.safetensors", vision_only)
    references = pictures.flip(1)
    report, _ = scores(comfy_host, images=pictures, prompt="x", scorer="CLIP-I", references=references)
    pair = [expected_images(model, side, cropped) for side in (pictures, references)]
    assert report["CLIP-I"]["images"] == pytest.approx((pair[0] * pair[1]).sum(-1).tolist(), abs=2e-3)
    same, _ = scores(comfy_host, images=pictures, prompt="x", scorer="CLIP-I", references=pictures)
    assert same["CLIP-I"]["images"] == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="as many references"):
        scores(comfy_host, images=pictures, prompt="x", scorer="CLIP-I", references=pictures[:1])


def aesthetic_state(width=128):
    sizes = [width, 1024, 128, 64, 16, 1]
    generator = torch.Generator().manual_seed(2)
    state = {}
    for layer, i, o in zip(LAYERS, sizes, sizes[1:], strict=False):
        state[f"{layer}.weight"] = torch.randn(o, i, generator=generator) / i**0.5
        state[f"{layer}.bias"] = torch.randn(o, generator=generator)
    return state


def test_the_aesthetic_head_is_its_layers():
    state = aesthetic_state()
    embeddings = torch.randn(5, 128)
    x = embeddings
    for layer in LAYERS:
        x = torch.nn.functional.linear(x, state[f"{layer}.weight"], state[f"{layer}.bias"])
    torch.testing.assert_close(AffineHead.from_state(state)(embeddings), x[:, 0], rtol=1e-4, atol=1e-4)


def test_aes(comfy_host, clips, model_file, pictures):
    model, head = clips("quick_gelu"), aesthetic_state()
    model_file("clip_vision/clip-vit-large-patch14.safetensors", model.state_dict())
    model_file("scorers/sac+logos+ava1-l14-linearMSE.pth", head)
    report, mean = scores(comfy_host, images=pictures, prompt="", scorer="AES", scorer_2="CLIP-T", scorer_3="AES")
    x = expected_images(model, pictures, cropped)
    for layer in LAYERS:
        x = torch.nn.functional.linear(x, head[f"{layer}.weight"], head[f"{layer}.bias"])
    assert report["AES"]["images"] == pytest.approx(x[:, 0].tolist(), abs=5e-3)
    assert mean == report["AES"]["mean"]
    assert list(report) == ["AES", "CLIP-T"]


def test_fid_and_is_from_the_users_file(comfy_host, model_file, pictures):
    from tests.support.inception_state import random_inception

    model_file("scorers/weights-inception-2015-12-05-6726825d.pth", random_inception())
    report, mean = scores(comfy_host, images=pictures, prompt="", scorer="FID", scorer_2="IS", references=pictures)
    assert mean == pytest.approx(0, abs=1e-6)
    assert 1 + 1e-6 < report["IS"]["mean"] < 1.5
    moved, _ = scores(comfy_host, images=pictures, prompt="", scorer="FID", references=pictures * 0.2)
    assert moved["FID"]["mean"] > 1e-3
    with pytest.raises(ValueError, match="connect references"):
        scores(comfy_host, images=pictures, prompt="", scorer="FID")
    with pytest.raises(ValueError, match="one is not enough"):
        scores(comfy_host, images=pictures[:1], prompt="", scorer="IS")


# ---- files ----


@pytest.mark.parametrize(
    ("scorer", "words"),
    [
        ("CLIP-T", "get model.safetensors .* of openai/clip-vit-large-patch14 .* save it as models/clip_vision/"),
        ("AES", "sac\\+logos\\+ava1-l14-linearMSE.pth"),
        ("PickScore", "yuvalkirstain/PickScore_v1"),
        ("HPSv2.1", "HPS_v2.1_compressed.pt"),
        ("FID", "torch-fidelity"),
    ],
)
def test_a_missing_file_is_reported(pack, comfy_host, pictures, scorer, words):
    with pytest.raises(ValueError, match=f"{scorer} needs a file that is not in models/scorers.*{words}"):
        scores(comfy_host, images=pictures, prompt="x", scorer=scorer, references=pictures)


def test_other_files_are_not_taken_for_openais_clip(comfy_host, clips, model_file, pictures):
    state = {"vision_model.x": torch.zeros(1)}
    for name in ("CLIP-ViT-L-14-laion2B", "clip-vit-large-patch14-336", "CLIP-ViT-H-14-laion2B-s32B-b79K", "clip_l"):
        model_file(f"clip_vision/{name}.safetensors", state)
    with pytest.raises(ValueError, match="CLIP-T needs a file"):
        scores(comfy_host, images=pictures, prompt="x", scorer="CLIP-T")


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        ("no CLIP text tower", "text_projection"),
        ("no CLIP image tower", "vision_model"),
        ("no complete CLIP model .*layers.1.mlp.fc2", "text_model.encoder.layers.1.mlp.fc2"),
        ("no complete CLIP model", "vision_model.encoder"),
    ],
)
def test_files_with_something_missing_are_reported(comfy_host, clips, model_file, pictures, words, lost):
    state = {key: tensor for key, tensor in clips("quick_gelu").state_dict().items() if not key.startswith(lost)}
    model_file("clip_vision/clip-vit-large-patch14.safetensors", state)
    with pytest.raises(ValueError, match=words):
        scores(comfy_host, images=pictures, prompt="x", scorer="CLIP-T")


def test_a_pickscore_without_its_scale_is_reported(comfy_host, clips, model_file, pictures):
    state = {key: tensor for key, tensor in clips("gelu").state_dict().items() if key != "logit_scale"}
    model_file("clip_vision/PickScore_v1.safetensors", state)
    with pytest.raises(ValueError, match="lacks its logit_scale"):
        scores(comfy_host, images=pictures, prompt="x", scorer="PickScore")


def test_another_aesthetic_head_is_reported(comfy_host, clips, model_file, pictures):
    relu = {key.replace("layers.2", "layers.3"): tensor for key, tensor in aesthetic_state().items()}
    model_file("scorers/sac+logos+ava1-l14-linearMSE.pth", relu)
    model_file("clip_vision/clip-vit-large-patch14.safetensors", clips("quick_gelu").state_dict())
    with pytest.raises(ValueError, match="not the aesthetic head"):
        scores(comfy_host, images=pictures, prompt="x", scorer="AES")


def test_the_wrong_clip_for_the_aesthetic_head_is_reported(comfy_host, clips, model_file, pictures):
    model_file("scorers/sac+logos+ava1-l14-linearMSE.pth", aesthetic_state(768))
    model_file("clip_vision/clip-vit-large-patch14.safetensors", clips("quick_gelu").state_dict())
    with pytest.raises(ValueError, match="reads embeddings of 768 numbers"):
        scores(comfy_host, images=pictures, prompt="x", scorer="AES")


class Payload:
    """What a file of weights must not hold: unpickling it would run a function."""

    def __reduce__(self):
        return print, ("this must not run",)


def test_a_file_that_would_run_code_is_refused(comfy_host, model_file, pictures, capsys):
    for name, scorer in (("weights-inception-2015-12-05-6726825d.pth", "FID"), ("HPS_v2.1_compressed.pt", "HPSv2.1")):
        model_file(f"scorers/{name}", {"fc.weight": Payload()})
        with pytest.raises(ValueError, match="cannot be read"):
            scores(comfy_host, images=pictures, prompt="x", scorer=scorer, references=pictures)
    assert "must not run" not in capsys.readouterr().out


def test_as_many_prompts_as_pictures(comfy_host, pack, pictures):
    with pytest.raises(ValueError, match="3 prompts for 2 pictures"):
        scores(comfy_host, images=pictures, prompt="a\nb\nc", scorer="CLIP-T")


def test_fitting_into_a_square():
    wide = torch.ones(1, 50, 100, 3)
    square = fit_into_square(wide, 224)
    assert square.shape == (1, 224, 224, 3)
    assert (square[:, :56] == 0).all() and (square[:, 168:] == 0).all()
    torch.testing.assert_close(square[:, 56:168], torch.ones(1, 112, 224, 3))
