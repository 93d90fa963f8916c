"""TEST-ONLY custom node package: teaches the real checkpoint loader the pocket family.

SD1.5's U-Net topology and layout at a fraction of its width, v-prediction, a 24-token CLIP text encoder of width 64 and a
TAESD autoencoder. Copy or link this folder into ComfyUI's custom_nodes (or import it after the host).
"""

import comfy.latent_formats
import comfy.model_base
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base as smb
from comfy import utils

TOKENS = 24  # a prompt's chunk, instead of 77: pocket captions are short
TEXT_WIDTH = 64
TEXT = dict(
    hidden_size=TEXT_WIDTH,
    num_attention_heads=2,
    num_hidden_layers=3,
    intermediate_size=256,
    projection_dim=TEXT_WIDTH,
    max_position_embeddings=TOKENS,
)
# What model_detection reads off the U-Net's keys and shapes, written as UNetModel's arguments.
UNET = dict(
    image_size=32,
    in_channels=4,
    out_channels=4,
    model_channels=64,
    num_res_blocks=[2, 2],
    channel_mult=[1, 1],
    transformer_depth=[1, 1, 1, 1],
    transformer_depth_output=[1, 1, 1, 1, 1, 1],
    transformer_depth_middle=1,
    context_dim=TEXT_WIDTH,
    use_linear_in_transformer=False,
    num_heads=-1,
    num_head_channels=32,
    use_spatial_transformer=True,
    legacy=False,
)
# Flux.1's class, with patches of one position.
FLUX = dict(
    image_model="flux",
    in_channels=4,
    out_channels=4,
    patch_size=1,
    vec_in_dim=TEXT_WIDTH,
    context_in_dim=TEXT_WIDTH,
    hidden_size=96,
    mlp_ratio=4.0,
    num_heads=3,
    depth=1,
    depth_single_blocks=4,
    axes_dim=[8, 12, 12],
    theta=10000,
    qkv_bias=True,
    guidance_embed=False,
)


class PocketTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):  # noqa: B006 - the host's own signature
        super().__init__(
            embedding_directory=embedding_directory, tokenizer_data={**tokenizer_data, "clip_l_max_length": TOKENS}
        )

    def tokenize_with_weights(self, text, return_word_ids=False, **options):
        """A scene's caption, "left ...; right ...", gets a chunk of tokens for each subject."""
        first, *more = (
            super(PocketTokenizer, self).tokenize_with_weights(part, return_word_ids, **options)
            for part in text.split(";")
        )
        return {name: [*chunks, *(chunk for each in more for chunk in each[name])] for name, chunks in first.items()}


class PocketClip(comfy.sd1_clip.SD1ClipModel):
    """The host's CLIP with its own override hook for the text model's config."""

    def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006
        super().__init__(device=device, dtype=dtype, model_options={**model_options, "clip_l_model_config": TEXT})


class PocketLatent(comfy.latent_formats.LatentFormat):
    """Latents leave the encoder normalised (mean 0, deviation 1 per channel, white at 0), so nothing is scaled here."""


class PocketSD15(smb.BASE):
    # The golden experts (tests/support/comfy/tiny_families) differ in channel_mult only.
    unet_config = {
        "context_dim": TEXT_WIDTH,
        "model_channels": UNET["model_channels"],
        "channel_mult": UNET["channel_mult"],
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
    }
    unet_extra_config = {"num_heads": -1, "num_head_channels": UNET["num_head_channels"]}
    latent_format = PocketLatent
    memory_usage_factor = 1.0

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION

    def process_clip_state_dict(self, state_dict):
        return utils.state_dict_prefix_replace(state_dict, {"cond_stage_model.": "clip_l."}, filter_keys=True)

    def process_clip_state_dict_for_saving(self, state_dict):
        return utils.state_dict_prefix_replace(state_dict, {"clip_l.": "cond_stage_model."})

    def clip_target(self, state_dict={}):  # noqa: B006
        return smb.ClipTarget(PocketTokenizer, PocketClip)


class PocketFlux(comfy.supported_models.FluxSchnell):
    unet_config = {"image_model": "flux", "hidden_size": FLUX["hidden_size"], "guidance_embed": False}
    unet_extra_config = {name: FLUX[name] for name in ("in_channels", "out_channels", "patch_size", "num_heads", "axes_dim")}
    latent_format = PocketLatent
    memory_usage_factor = 1.0
    process_clip_state_dict = PocketSD15.process_clip_state_dict
    process_clip_state_dict_for_saving = PocketSD15.process_clip_state_dict_for_saving
    clip_target = PocketSD15.clip_target
    vae_key_prefix = PocketSD15.vae_key_prefix
    text_encoder_key_prefix = PocketSD15.text_encoder_key_prefix


# Registered once, however often the folder is imported under different names.
if not any(m.__name__ == "PocketSD15" for m in comfy.supported_models.models):
    comfy.supported_models.models.append(PocketSD15)
    comfy.supported_models.models.insert(0, PocketFlux)  # the host's own Flux does not look at the width
NODE_CLASS_MAPPINGS = {}
