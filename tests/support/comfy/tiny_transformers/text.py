"""The text encoders of Flux.1, Z-Image and Anima at the width of the toys, for the host's own loaders: theirs are of fixed sizes."""

import comfy.sd
import comfy.text_encoders.flux as flux
import comfy.text_encoders.z_image as z_image

T5 = {"d_ff": 64, "d_kv": 16, "d_model": 48, "num_heads": 2, "num_layers": 2}
CLIP_L = {
    "hidden_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 96, "projection_dim": 48,
}  # fmt: skip
QWEN = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip
QWEN_4B = {**QWEN, "num_hidden_layers": 3}
"""A layer more than Anima's, by which the two are told apart: both have the width of the toys."""


def _narrow(model, **configs):
    """A text model of the host's whose parts have other sizes, by the host's own option."""

    class Narrow(model):
        def __init__(self, *args, model_options=None, **kwargs):
            options = {f"{name}_model_config": config for name, config in configs.items()}
            super().__init__(*args, model_options={**(model_options or {}), **options}, **kwargs)

    return Narrow


def install(newer: bool) -> None:
    """Teaches the host's loaders, in the tests' processes alone."""
    flux.FluxClipModel = _narrow(flux.FluxClipModel, t5xxl=T5, clip_l=CLIP_L)
    z_image.ZImageTEModel = _narrow(z_image.ZImageTEModel, qwen3_4b=QWEN_4B)
    if newer:
        import comfy.text_encoders.anima as anima

        anima.AnimaTEModel = _narrow(anima.AnimaTEModel, qwen3_06b=QWEN)
    known = comfy.sd.detect_te_model

    def detect(state):
        norms = [state.get(f"model.layers.{i}.post_attention_layernorm.weight") for i in (0, 2)]
        if norms[0] is None or len(norms[0]) != QWEN["hidden_size"]:
            return known(state)
        return comfy.sd.TEModel.QWEN3_06B if norms[1] is None else comfy.sd.TEModel.QWEN3_4B

    comfy.sd.detect_te_model = detect


def states() -> dict:
    """The networks of the toy text encoders by the names of their files."""
    model = flux.FluxClipModel(device="cpu")
    found = {"tiny_clip_l": model.clip_l.transformer, "tiny_t5xxl": model.t5xxl.transformer}
    found["tiny_qwen3_4b"] = z_image.ZImageTEModel(device="cpu").qwen3_4b.transformer
    if hasattr(comfy.sd.TEModel, "QWEN3_06B"):
        import comfy.text_encoders.anima as anima

        found["tiny_qwen3_06b"] = anima.AnimaTEModel(device="cpu").qwen3_06b.transformer
    return found
