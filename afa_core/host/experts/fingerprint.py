"""What a loaded model computes, as a digest: its weights, and all that nodes have put on it since."""

from __future__ import annotations

import hashlib
from functools import partial
from types import MethodType
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from torch import Tensor

from .checkpoints import SAMPLES, own_weight, weights_digest
from .experts import KEY

DEEPEST = 16
"""Of what lies in one another, at most as much is read: patches of other nodes may lead anywhere."""


def patcher_digest(patcher: ModelPatcher) -> str:
    """Of the weights, LoRAs, replaced parts and options of a model; the same after a restart."""
    keys = (key for key, _ in patcher.model.named_parameters())
    digest = hashlib.sha256(weights_digest(keys, lambda key: own_weight(patcher, key)).encode())
    for part in (
        patcher.patches,
        patcher.object_patches,
        patcher.model_options,
        patcher.hook_patches,
        *_injected(patcher),
    ):
        _add(digest, part)
    return digest.hexdigest()


def patches_digest(patcher: ModelPatcher) -> str:
    """Of the LoRAs and other patches on a model's weights, with their strengths; empty without any.

    So are those that a LoRA loader in bypass mode runs beside the weights.
    """
    injected = _injected(patcher)
    if not (patcher.patches or injected):
        return ""
    digest = hashlib.sha256()
    for part in (patcher.patches, *injected):
        _add(digest, part)
    return digest.hexdigest()


def clip_digest(clip: CLIP) -> str:
    """Of a text encoder with its settings."""
    digest = hashlib.sha256(patcher_digest(clip.patcher).encode())
    for part in (type(clip.cond_stage_model).__name__, clip.layer_idx, getattr(clip, "tokenizer_options", {})):
        _add(digest, part)
    return digest.hexdigest()


def vae_digest(vae: VAE) -> str:
    return patcher_digest(vae.patcher)


def _injected(patcher: ModelPatcher) -> list[Any]:
    """What other nodes do to a network's layers while it is loaded, as LoRA loaders in bypass mode do."""
    return [part.inject for key, parts in sorted(patcher.injections.items()) if key != KEY for part in parts]


def _add(digest, value: Any, *above: Any) -> None:
    """Feeds a value of any kind to the digest: by content, never by its address. above: what it is a part of"""
    digest.update(type(value).__name__.encode())
    if len(above) == DEEPEST or any(value is whole for whole in above):
        return
    above = (*above, value)
    if isinstance(value, Tensor):
        flat = value.detach().flatten()
        if flat.numel():
            flat = flat[torch.arange(SAMPLES, device=flat.device) * (len(flat) - 1) // (SAMPLES - 1)]
        digest.update(str(tuple(value.shape)).encode() + flat.to("cpu", torch.float32).numpy().tobytes())
    elif isinstance(value, (str, int, float, bool, type(None))):
        digest.update(repr(value).encode())
    elif isinstance(value, dict):
        for key in sorted(value, key=lambda key: str(key).partition(" at 0x")[0]):  # hooks as they were put on
            digest.update(str(key).encode() if isinstance(key, (str, tuple, int)) else b"")
            _add(digest, value[key], *above)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _add(digest, part, *above)
    elif isinstance(value, torch.nn.Module):
        # What a sampling predicts is one of its base classes.
        kinds = [kind.__qualname__ for kind in type(value).__mro__]
        _add(digest, [kinds, {**dict(value.named_parameters()), **dict(value.named_buffers())}], *above)
    elif isinstance(value, partial):
        _add(digest, [value.func, value.args, value.keywords], *above)
    elif callable(value) and hasattr(value, "__qualname__"):
        digest.update(value.__qualname__.encode())
        cells = getattr(value, "__closure__", None) or ()
        _add(digest, [cell.cell_contents for cell in cells], *above)
        if state := _state(value):
            _add(digest, state, *above)
    elif (weights := getattr(value, "weights", None)) is not None:  # the host's own form of a LoRA
        _add(digest, weights, *above)
    elif (adapters := getattr(value, "adapters", None)) is not None:  # of a LoRA loader in bypass mode, by layer
        _add(digest, adapters, *above)
    elif callable(value) and hasattr(value, "__dict__"):  # a patch that is an object
        _add(digest, vars(value), *above)


def _state(function: Any) -> dict[str, Any] | None:
    """What the object of a bound method holds; a network and its patcher hold what is loaded at this moment."""
    owner = function.__self__ if isinstance(function, MethodType) else None
    return None if isinstance(owner, (type, torch.nn.Module, ModelPatcher)) else getattr(owner, "__dict__", None)
