"""ImageReward on a small file of the authors' layout, against transformers' BLIP."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from afa_core.scoring.affine_head import LAYERS
from afa_core.scoring.image_reward import DEVIATION, MEAN

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "the",
    "red",
    "cat",
    "dog",
    "run",
    "##ning",
    "cafe",
    ",",
    "!",
    ".",
]
PROMPTS = ["A red Caf\u00e9, running!", "the dog zebra " * 20]
TOKENS = [
    [2, 5, 7, 12, 13, 10, 11, 14, 3] + [0] * 26,
    [2, *([6, 9, 1] * 11), 3],
]
WIDTH, TEXT = 128, 192


@pytest.fixture(scope="module")
def blip(comfy_host):
    """transformers' picture and text encoder with random weights, large enough for every part to matter."""
    from transformers import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    torch.manual_seed(4)
    with torch.inference_mode(False):
        vision = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=3, num_attention_heads=2, image_size=224,
                patch_size=32, layer_norm_eps=1e-6, hidden_act="gelu", attention_dropout=0.0,
            )
        )  # fmt: skip
        text = BlipTextModel(
            BlipTextConfig(
                vocab_size=len(WORDS) + 2, hidden_size=TEXT, encoder_hidden_size=WIDTH, intermediate_size=256,
                num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=64, layer_norm_eps=1e-12,
                hidden_act="gelu", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, is_decoder=True,
            ),
            add_pooling_layer=False,
        )  # fmt: skip
        for parameter in [*vision.parameters(), *text.parameters()]:
            size = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
            parameter.data += 1.5 * size * torch.randn_like(parameter)
    return vision.train(False), text.train(False)


def authors_layout(vision, text):
    """The same weights under the names of ImageReward.pt."""
    state = {f"blip.text_encoder.{key}": tensor for key, tensor in text.state_dict().items()}
    ours = {
        "embeddings.class_embedding": "cls_token",
        "embeddings.position_embedding": "pos_embed",
        "embeddings.patch_embedding": "patch_embed.proj",
        "post_layernorm": "norm",
        "encoder.layers": "blocks",
        "self_attn.qkv": "attn.qkv",
        "self_attn.projection": "attn.proj",
        "layer_norm": "norm",
    }
    for key, tensor in vision.state_dict().items():
        for theirs, name in ours.items():
            key = key.replace(theirs, name)
        state[f"blip.visual_encoder.{key}"] = tensor
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    return state | {f"mlp.{key}": tensor for key, tensor in head_state().items()}


def head_state():
    sizes = [TEXT, 1024, 128, 64, 16, 1]
    generator = torch.Generator().manual_seed(2)
    return {
        f"{layer}.{part}": torch.randn((o, i) if part == "weight" else (o,), generator=generator) / i**0.5
        for layer, i, o in zip(LAYERS, sizes, sizes[1:], strict=False)
        for part in ("weight", "bias")
    }


def expected_rewards(blip, pictures):
    """From the authors' description: 35 tokens, first state, five linear layers, standardised."""
    vision, text = blip
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = ((pictures - mean) / deviation).movedim(-1, 1)
    tokens = torch.tensor(TOKENS)
    with torch.inference_mode():
        seen = vision(pixel_values=pixels).last_hidden_state
        x = text(
            input_ids=tokens, attention_mask=(tokens != 0).long(), encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2]),
        ).last_hidden_state[:, 0]  # fmt: skip
        state = head_state()
        for layer in LAYERS:
            x = torch.nn.functional.linear(x, state[f"{layer}.weight"], state[f"{layer}.bias"])
    return ((x[:, 0] - MEAN) / DEVIATION).tolist()


@pytest.fixture
def files(pack, comfy_host, blip):
    """ImageReward.pt and the vocabulary below models/scorers; files["state"] may be written anew."""
    folder = comfy_host.base / "models" / "scorers"
    (folder / "bert-base-uncased").mkdir(parents=True, exist_ok=True)
    weights, vocabulary = folder / "ImageReward.pt", folder / "bert-base-uncased" / "vocab.txt"
    torch.save(authors_layout(*blip), weights)
    vocabulary.write_text("\n".join(WORDS))
    yield weights, vocabulary
    weights.unlink(missing_ok=True)
    vocabulary.unlink(missing_ok=True)


def pictures_of(side):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, side, side, 3), generator=generator) / 255


def test_rewards_are_those_of_blip(comfy_host, files, blip):
    pictures = pictures_of(224)
    text, mean = comfy_host.call("AFAScoreImages", images=pictures, prompt="\n".join(PROMPTS), scorer="ImageReward")
    expected = expected_rewards(blip, pictures)
    assert json.loads(text)["ImageReward"]["images"] == pytest.approx(expected, abs=1e-4)
    assert mean == pytest.approx(np.mean(expected), abs=1e-4)
    assert abs(expected[0] - expected[1]) > 0.05


def test_picture_and_prompt_both_count(comfy_host, files):
    def score(pictures, prompt):
        return comfy_host.call("AFAScoreImages", images=pictures, prompt=prompt, scorer="ImageReward")[1]

    one = score(pictures_of(224)[:1], "a red cat")
    assert score(pictures_of(224)[1:], "a red cat") != pytest.approx(one, abs=1e-3)
    assert score(pictures_of(224)[:1], "the dog") != pytest.approx(one, abs=1e-3)


def test_preprocessing_is_pillows(comfy_host, files, blip):
    smooth = torch.nn.functional.interpolate(
        torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(1)), (300, 260), mode="bicubic"
    )
    pictures = (smooth.clamp(0, 1) * 255).round().movedim(1, -1) / 255
    cut = []
    for picture in pictures:
        image = Image.fromarray((picture.numpy() * 255).round().astype(np.uint8))
        image = image.resize((224, round(300 * 224 / 260)), Image.Resampling.BICUBIC)
        top = (image.height - 224) // 2
        cut.append(torch.from_numpy(np.array(image.crop((0, top, 224, top + 224)))) / 255)
    text, _ = comfy_host.call("AFAScoreImages", images=pictures, prompt="\n".join(PROMPTS), scorer="ImageReward")
    assert json.loads(text)["ImageReward"]["images"] == pytest.approx(
        expected_rewards(blip, torch.stack(cut)), abs=2e-2
    )


def test_missing_and_unfit_files_are_reported(comfy_host, files, blip):
    def score():
        comfy_host.call("AFAScoreImages", images=pictures_of(224), prompt="x", scorer="ImageReward")

    weights, vocabulary = files
    vocabulary.write_text("\n".join(WORDS + [f"more{i}" for i in range(9)]))
    with pytest.raises(ValueError, match="vocab.txt has 25 words, and ImageReward.pt has 18"):
        score()
    state = authors_layout(*blip)
    del state["blip.text_encoder.encoder.layer.1.crossattention.self.key.weight"]
    torch.save(state, weights)
    with pytest.raises(ValueError, match="not ImageReward v1.0.*crossattention"):
        score()
    vocabulary.unlink()
    with pytest.raises(ValueError, match="get vocab.txt .* of google-bert/bert-base-uncased"):
        score()
    weights.unlink()
    with pytest.raises(ValueError, match="get ImageReward.pt .* save it as models/scorers/ImageReward.pt"):
        score()
