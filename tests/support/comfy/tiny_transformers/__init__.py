"""Test-only custom node package: teaches the host's UNETLoader toy transformers, a few narrow blocks deep.

They are the host's own networks of Flux, Chroma, Lumina 2, Z-Image, Qwen-Image and Cosmos-Predict2; newer.py has those
of Anima and Krea 2, where the host has them.
"""

import importlib
from typing import ClassVar

import comfy.supported_models as host

from . import text


class TinyFlux(host.Flux):
    unet_config: ClassVar = {"image_model": "flux", "hidden_size": 64, "guidance_embed": True}
    unet_extra_config: ClassVar = {"num_heads": 2, "axes_dim": [8, 12, 12], "mlp_ratio": 2.0}
    network = "comfy.ldm.flux.model.Flux"
    shape: ClassVar = {
        "in_channels": 16, "out_channels": 16, "vec_in_dim": 48, "context_in_dim": 48, "depth": 3,
        "depth_single_blocks": 4, "theta": 10000, "patch_size": 2, "qkv_bias": True,
    }  # fmt: skip


class TinySchnell(host.FluxSchnell):
    unet_config: ClassVar = {**TinyFlux.unet_config, "guidance_embed": False}
    unet_extra_config = TinyFlux.unet_extra_config
    network = TinyFlux.network
    shape = TinyFlux.shape


class TinyChroma(host.Chroma):
    unet_config: ClassVar = {"image_model": "chroma", "hidden_size": 64}
    unet_extra_config: ClassVar = {**TinyFlux.unet_extra_config, "out_dim": 64, "hidden_dim": 48, "n_layers": 2}
    network = "comfy.ldm.chroma.model.Chroma"
    shape: ClassVar = {
        "in_channels": 64, "out_channels": 64, "context_in_dim": 48, "depth": 3, "depth_single_blocks": 4,
        "theta": 10000, "patch_size": 2, "qkv_bias": True, "in_dim": 64,
    }  # fmt: skip


class TinyLumina(host.Lumina2):
    unet_config: ClassVar = {"image_model": "lumina2", "dim": 64}
    unet_extra_config: ClassVar = {
        "n_heads": 2, "n_kv_heads": 1, "axes_dims": [8, 12, 12], "axes_lens": [300, 512, 512],
        "ffn_dim_multiplier": 1.0, "multiple_of": 32,
    }  # fmt: skip
    network = "comfy.ldm.lumina.model.NextDiT"
    shape: ClassVar = {"patch_size": 2, "in_channels": 16, "cap_feat_dim": 48, "n_layers": 5, "qk_norm": True}


class TinyZImage(host.ZImage):
    unet_config: ClassVar = {"image_model": "lumina2", "dim": 256}  # the width of its time vector is fixed
    unet_extra_config: ClassVar = {
        "n_heads": 4, "n_kv_heads": 4, "axes_dims": [16, 24, 24], "axes_lens": [1536, 512, 512], "rope_theta": 256.0,
        "ffn_dim_multiplier": 0.5, "multiple_of": 32, "z_image_modulation": True, "time_scale": 1000.0,
        "pad_tokens_multiple": 32, "n_refiner_layers": 1,
    }  # fmt: skip
    network = TinyLumina.network
    shape: ClassVar = {**TinyLumina.shape, "n_layers": 3}


class TinyQwen(host.QwenImage):
    unet_config: ClassVar = {"image_model": "qwen_image", "num_layers": 5}
    unet_extra_config: ClassVar = {
        "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 48, "axes_dims_rope": (8, 12, 12),
    }  # fmt: skip
    network = "comfy.ldm.qwen_image.model.QwenImageTransformer2DModel"
    shape: ClassVar = {"in_channels": 64}


class TinyCosmos(host.CosmosT2IPredict2):
    unet_config: ClassVar = {"image_model": "cosmos_predict2", "in_channels": 16, "model_channels": 64}
    unet_extra_config: ClassVar = {
        "num_blocks": 5, "num_heads": 2, "crossattn_emb_channels": 48, "adaln_lora_dim": 16, "mlp_ratio": 2.0,
    }  # fmt: skip
    network = "comfy.ldm.cosmos.predict2.MiniTrainDIT"
    shape: ClassVar = {
        "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "out_channels": 16, "patch_spatial": 2,
        "patch_temporal": 1, "concat_padding_mask": True, "pos_emb_cls": "rope3d", "pos_emb_learnable": True,
        "use_adaln_lora": True, "rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0,
    }  # fmt: skip


FAMILIES = [TinyFlux, TinySchnell, TinyChroma, TinyLumina, TinyZImage, TinyQwen, TinyCosmos]
if hasattr(host, "Krea2"):
    from .newer import TinyAnima, TinyKrea2

    FAMILIES += [TinyAnima, TinyKrea2]
text.install(newer=hasattr(host, "Krea2"))
# First, because the host's own families do not look at the width.
host.models[:0] = FAMILIES
NODE_CLASS_MAPPINGS = {}


NEWER = {"txt_ids_dims": [], "vec_in_dim": None}
"""What newer hosts read from the checkpoint of a Flux or a Chroma, too."""


def by_name(name):
    """A toy family; None where this host does not have it."""
    return next((family for family in FAMILIES if family.__name__ == name), None)


def build(family, operations, dtype):
    """The network of a toy family, with weights that are not set."""
    module, name = family.network.rsplit(".", 1)
    config = {**family.shape, **family.unet_config, **family.unet_extra_config}
    place = importlib.import_module(module)
    fields = getattr(getattr(place, f"{name}Params", None), "__annotations__", ())
    config = {**{field: value for field, value in NEWER.items() if field in fields}, **config}
    return getattr(place, name)(**config, dtype=dtype, device="cpu", operations=operations)
