"""CLIP's image and text towers from one file, on the host's CLIP code."""

from __future__ import annotations

from pathlib import Path

import comfy.clip_model
import comfy.clip_vision
import comfy.model_management
import comfy.ops
import comfy.sd1_clip
import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor

from ...scoring.image_reward import count_layers
from ...untrusted import brief
from ..module_patcher import module_patcher
from .files import ScorerError, read_weights

SIZE = 224
IMAGE_HEAD = {1024: 64, 1280: 80, 1664: 104}
"""Width of an attention head by width of the image tower, where it is not 64: ViT-L has 16 of 64, ViT-H 16 of 80."""


class ClipTowers:
    """Both towers of a CLIP file, in the layout of Hugging Face or of OpenCLIP; embeddings are of length 1.

    Raises ScorerError, before any memory is spent on them, where the file lacks a tower.
    activation: "quick_gelu" for OpenAI's CLIP, "gelu" for OpenCLIP's: the file does not state it.
    """

    def __init__(self, path: Path, activation: str, with_text: bool = True):
        state = _as_hugging_face(read_weights(path))
        self.logit_scale = state["logit_scale"].float().exp().item() if "logit_scale" in state else None
        offload = comfy.model_management.text_encoder_offload_device()
        try:
            towers = {"image": _image_tower(path.name, state, activation, offload)}
            if with_text:
                towers["text"] = _text_tower(path.name, state, activation, offload)
        except (KeyError, RuntimeError) as error:  # a missing weight would silently stay random
            raise ScorerError(f"{path.name} is no complete CLIP model ({brief(error)}): get it again.") from error
        self.device = comfy.model_management.text_encoder_device()
        self.patcher = module_patcher(torch.nn.ModuleDict(towers).train(False), self.device, offload)

    @property
    def size(self) -> int:
        """The width of an embedding."""
        return self.patcher.model["image"].visual_projection.weight.shape[0]

    def load(self) -> None:
        comfy.model_management.load_models_gpu([self.patcher])

    def images(self, pictures: Tensor) -> Tensor:
        """Embeddings [B, D] of pictures [B, H, W, C] in 0..1: shortest side to 224, cut to the centre."""
        pixels = comfy.clip_vision.clip_preprocess(pictures.to(self.device), size=SIZE).float()
        return F.normalize(self.patcher.model["image"](pixel_values=pixels)[2].float(), dim=-1)

    def texts(self, prompts: list[str]) -> Tensor:
        """Embeddings [P, D] of prompts, each cut after 77 tokens; words are words, without the host's (weights:1.2)."""
        tokenizer = comfy.sd1_clip.SDTokenizer().tokenizer
        tokens = tokenizer(prompts, padding="max_length", max_length=77, truncation=True)["input_ids"]
        tokens = torch.tensor(tokens, device=self.device)
        return F.normalize(self.patcher.model["text"](input_tokens=tokens)[2].float(), dim=-1)


def _as_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file's weights under Hugging Face's names."""
    if "visual.conv1.weight" not in state:
        return state
    state = comfy.clip_vision.convert_to_transformers(dict(state), "visual.")
    return comfy.utils.clip_text_transformers_convert(state, "", "")


def _image_tower(name: str, state: dict[str, Tensor], activation: str, device: torch.device) -> torch.nn.Module:
    prefix = "vision_model.embeddings."
    patches, positions = state.get(f"{prefix}patch_embedding.weight"), state.get(f"{prefix}position_embedding.weight")
    if patches is None or positions is None or "visual_projection.weight" not in state:
        raise ScorerError(f"{name} has no CLIP image tower with its projection: get the full CLIP model.")
    width, patch = patches.shape[0], patches.shape[-1]
    config = {
        "num_hidden_layers": count_layers(state, "vision_model.encoder.layers."),
        "hidden_size": width,
        "num_attention_heads": width // IMAGE_HEAD.get(width, 64),
        "intermediate_size": state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "hidden_act": activation,
        "model_type": "clip_vision_model",
        "num_channels": 3,
        "patch_size": patch,
        "image_size": round((len(positions) - 1) ** 0.5) * patch,
        "projection_dim": state["visual_projection.weight"].shape[0],
    }
    if config["image_size"] != SIZE:
        raise ScorerError(f"{name} takes pictures of {config['image_size']} pixels, and {SIZE} were expected: get the model that the node's help names.")
    tower = comfy.clip_model.CLIPVisionModelProjection(config, patches.dtype, device, comfy.ops.manual_cast)
    return _filled(tower, state)


def _text_tower(name: str, state: dict[str, Tensor], activation: str, device: torch.device) -> torch.nn.Module:
    positions = state.get("text_model.embeddings.position_embedding.weight")
    if positions is None or "text_projection.weight" not in state:
        raise ScorerError(
            f"{name} has no CLIP text tower with its projection, which is needed to compare a picture with its prompt: "
            "get the full model, with both towers."
        )
    width = positions.shape[1]
    config = {
        "num_hidden_layers": count_layers(state, "text_model.encoder.layers."),
        "hidden_size": width,
        "num_attention_heads": width // 64,
        "intermediate_size": state["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "hidden_act": activation,
        "max_position_embeddings": len(positions),
        "eos_token_id": 49407,
    }
    tower = comfy.clip_model.CLIPTextModel(config, positions.dtype, device, comfy.ops.manual_cast)
    return _filled(tower, state)


def _filled(tower: torch.nn.Module, state: dict[str, Tensor]) -> torch.nn.Module:
    """The tower with its weights. Raises KeyError or RuntimeError unless all are there, and of its shapes."""
    missing = tower.load_state_dict(state, strict=False, assign=True).missing_keys  # the file holds more than one tower
    if missing:
        raise KeyError(missing[0])
    return tower
