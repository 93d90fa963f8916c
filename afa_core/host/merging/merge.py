"""Merging checkpoints through the host's own weight patches: nothing is computed before the model is loaded."""

from __future__ import annotations

import comfy.utils
from comfy.model_patcher import ModelPatcher

from ...merging.recipe import MergeError, Recipe, chain_ratios, parse_recipe
from ..experts.experts import Expert, check_experts

PREFIX = "diffusion_model."


def check_mergeable(experts: list[Expert], instead: str = "connect them to AFA Ensemble Model, which can run them together") -> None:
    """Raises ExpertError or MergeError unless the weights of these models mean the same things. instead: what to do then"""
    check_experts(experts)
    first = experts[0]
    for other in experts[1:]:
        if other.prediction != first.prediction:
            raise MergeError(
                f"{other.label} predicts {other.prediction} and {first.label} {first.prediction}, and weights that predict "
                f"different things cannot be merged: {instead}."
            )


def recipe_for(experts: list[Expert], weights: str, preset: str, table: str) -> Recipe:
    """The recipe of a node's widgets, with the block names that these models have."""
    return parse_recipe(weights, preset, table, len(experts), experts[0].merge_blocks)


def merge_models(experts: list[Expert], recipe: Recipe) -> ModelPatcher:
    """The first model with the others' U-Nets merged into its own, each with the LoRAs it carries.

    A chain of the host's two-model merges: at loading, its `calculate_weight` applies them one after the
    other in float32 and rounds once. Text encoders and VAEs, and so CLIP's position_ids, are not touched.
    Raises ExpertError where the models do not fit one another, MergeError where they cannot be merged or the recipe names
    no layer of theirs.
    """
    check_mergeable(experts)
    merged = experts[0].patcher.clone()
    keys = [key for key in merged.model_state_dict() if key.startswith(PREFIX)]
    unused = recipe.unused(key.removeprefix(PREFIX) for key in keys)
    if unused:
        raise MergeError(f"block_weights names {unused[0]}, and no layer of {experts[0].label} begins like that: correct it.")
    ratios = {key: chain_ratios(recipe.shares(key.removeprefix(PREFIX))) for key in keys}
    for number, expert in enumerate(experts[1:]):
        patches = _weights(expert)
        by_ratio: dict[float, dict] = {}
        for key in (key for key in keys if key in patches):
            by_ratio.setdefault(ratios[key][number], {})[key] = patches[key]
        for ratio, group in by_ratio.items():
            if ratio < 1:
                merged.add_patches(group, 1.0 - ratio, ratio)
    return merged


def extrapolated(merged: ModelPatcher, first: Expert, base: Expert, strength: float) -> ModelPatcher:
    """base + strength * (merged - base), as one more of the host's merges of two.

    first: of those that were merged. Raises ExpertError or MergeError as `merge_models` does.
    """
    check_mergeable([first, base])
    result = merged.clone()
    result.add_patches(_weights(base), 1.0 - strength, strength)
    return result


def _is_scale(patcher: ModelPatcher, key: str) -> bool:
    """Whether it says how a weight beside it is stored: the host writes merged weights by the first model's."""
    layer, _, kind = key.rpartition(".")
    return kind not in ("weight", "bias") and hasattr(comfy.utils.get_attr(patcher.model, layer), "set_weight")


def _weights(expert: Expert) -> dict:
    """A model's weights by key, with the patches on each, as the host's merges take them."""
    try:
        patches = expert.patcher.get_key_patches(PREFIX)
    except AttributeError as error:  # the host looks up all that a quantized layer would save
        raise MergeError(
            f"{expert.label} is quantized in a way that this ComfyUI cannot merge: connect its file of full or half "
            "precision."
        ) from error
    return {key: patch for key, patch in patches.items() if not _is_scale(expert.patcher, key)}
