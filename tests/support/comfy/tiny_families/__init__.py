"""Test-only custom node package: teaches the host's checkpoint loader four toy U-Net families.

They have the block topology of SD1.5, SD2 and SDXL at a fraction of the width, and that of the golden tensors.
A family is matched by the shapes in a checkpoint, so a toy never shadows a real model.
"""

import comfy.latent_formats
import comfy.model_base
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base as families
from comfy import utils
from comfy.text_encoders import sd2_clip


def _text_config(width):
    # Three layers, because the penultimate one is read too.
    return {
        "hidden_size": width,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "intermediate_size": 2 * width,
        "projection_dim": width,
    }


def _narrow(text_model, width, *clip_names):
    """The host's text model at another width, through the host's own override "<clip name>_model_config"."""

    class Narrow(text_model):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            options = {f"{name}_model_config": _text_config(width) for name in clip_names}
            super().__init__(device=device, dtype=dtype, model_options={**(model_options or {}), **options})

    return Narrow


class _Tiny(families.BASE):
    """What the toys share; prediction type by the key `v_pred`, as community SDXL checkpoints say it."""

    memory_usage_factor = 1.0
    text_prefixes = {"cond_stage_model.": "clip_l."}

    def model_type(self, state_dict, prefix=""):
        kinds = comfy.model_base.ModelType
        return kinds.V_PREDICTION if "v_pred" in state_dict else kinds.EPS

    def process_clip_state_dict(self, state_dict):
        return utils.state_dict_prefix_replace(state_dict, dict(self.text_prefixes), filter_keys=True)

    def process_clip_state_dict_for_saving(self, state_dict):
        return utils.state_dict_prefix_replace(state_dict, {new: old for old, new in self.text_prefixes.items()})

    def clip_target(self, state_dict=None):
        return families.ClipTarget(self.tokenizer, self.text_model)


class TinySD15(_Tiny):
    unet_config = {
        "context_dim": 32,
        "model_channels": 64,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
    }
    unet_extra_config = {"num_heads": 2, "num_head_channels": -1}
    latent_format = comfy.latent_formats.SD15
    tokenizer = comfy.sd1_clip.SD1Tokenizer
    text_model = _narrow(comfy.sd1_clip.SD1ClipModel, 32, "clip_l")


class Golden(TinySD15):
    """The experts of tests/golden: SD1.5's topology with channels 32, 64, 64, 64."""

    unet_config = {**TinySD15.unet_config, "context_dim": 64, "model_channels": 32, "channel_mult": [1, 2, 2, 2]}
    unet_extra_config = {"num_heads": 8, "num_head_channels": -1}
    text_model = _narrow(comfy.sd1_clip.SD1ClipModel, 64, "clip_l")


class TinySD2(_Tiny):
    unet_config = {
        "context_dim": 48,
        "model_channels": 64,
        "use_linear_in_transformer": True,
        "adm_in_channels": None,
        "use_temporal_attention": False,
    }
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = comfy.latent_formats.SD15
    text_prefixes = {"cond_stage_model.": "clip_h."}
    tokenizer = sd2_clip.SD2Tokenizer
    text_model = _narrow(sd2_clip.SD2ClipModel, 48, "clip_h")


class TinySDXL(_Tiny):
    unet_config = {
        "context_dim": 64,
        "model_channels": 64,
        "use_linear_in_transformer": True,
        "adm_in_channels": 32 + 6 * 256,  # pooled text and six sizes
        "use_temporal_attention": False,
    }
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = comfy.latent_formats.SDXL
    memory_usage_factor = 0.8
    text_prefixes = {"conditioner.embedders.0.": "clip_l.", "conditioner.embedders.1.": "clip_g."}
    tokenizer = comfy.sdxl_clip.SDXLTokenizer
    text_model = _narrow(comfy.sdxl_clip.SDXLClipModel, 32, "clip_l", "clip_g")

    def get_model(self, state_dict, prefix="", device=None):
        return comfy.model_base.SDXL(self, model_type=self.model_type(state_dict, prefix), device=device)


comfy.supported_models.models += [TinySD15, Golden, TinySD2, TinySDXL]
NODE_CLASS_MAPPINGS = {}
