"""Nodes that save time by using again what a network computed in an earlier step. They take a model for one network."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher

BY_WRAPPER = {"easycache": "EasyCache", "lazycache": "LazyCache"}
"""Nodes of the host's by the key of the wrappers they add."""
BY_PATCH = {"KV_Attn_Input": "Flux KV Cache"}
"""By the class of an attention patch: it keeps keys and values by block, and several experts have a block of that number."""


def step_cache(patcher: ModelPatcher) -> str | None:
    """The name of such a node that was put on a model."""
    keys = {key for wrappers in patcher.wrappers.values() for key in wrappers}
    patches = patcher.model_options["transformer_options"].get("patches", {}).get("attn1_patch", ())
    found = [BY_WRAPPER.get(key) for key in keys] + [BY_PATCH.get(type(patch).__name__) for patch in patches]
    return next(filter(None, found), None)
