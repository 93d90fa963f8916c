"""Every expert's own text: checked against the experts, encoded by them, and handed to each.

`carried_texts.py` says how a conditioning carries them.
"""

from __future__ import annotations

import math
from typing import Any

import comfy.samplers
from torch import Tensor

from ..experts.experts import Expert, ExpertError
from .carried_texts import CONDS_KEY, of_encoder, others_texts

PREFIX = "afa_expert_"
LONGEST_REPEAT = 4
"""The host itself repeats a text at most this often to match a longer one."""


def check_texts(conds: dict[str, list[dict[str, Any]]], experts: list[Expert]) -> None:
    """Raises ExpertError where a conditioning does not carry one fitting text an expert."""
    for entry in (entry for entries in conds.values() for entry in entries or () if "cross_attn" in entry):
        others = [tensor for tensor, _ in others_texts(entry)] if CONDS_KEY in entry else []
        texts = [entry["cross_attn"], *others]
        if others and len(texts) != len(experts):
            raise ExpertError(
                f"The prompt carries text for {len(texts)} experts, and {len(experts)} models are connected: "
                "connect as many CLIPs to AFA Ensemble CLIP as models to AFA Ensemble Model, in the same order."
            )
        for text, expert in zip(texts, experts, strict=False):  # without own texts all read expert 0's
            check_width(expert, text, "The prompt")
        check_lengths([text.shape[1] for text in texts], "the prompt")


def check_width(expert: Expert, text: Tensor, what: str) -> None:
    """Raises ExpertError where a text [B, L, D] is not of the width that the expert reads. what: it is, for the message"""
    width = expert.prompt_width
    if text.shape[-1] != width:
        raise ExpertError(
            f"{what} for {expert.label} is encoded to a width of {text.shape[-1]}, and {expert.label} "
            f"({expert.architecture_name}) reads {width}: connect the CLIP of its own checkpoint."
        )


def check_lengths(lengths: list[int], what: str) -> None:
    """Raises ExpertError where the experts' texts, of so many tokens, cannot be repeated to one length."""
    if math.lcm(*lengths) > LONGEST_REPEAT * min(lengths):
        raise ExpertError(
            f"The experts read {what} as {', '.join(map(str, lengths))} tokens, and these lengths cannot be matched: give every "
            "expert a text of about the same length."
        )


def encode_texts(guider, experts: list[Expert], noise: Tensor, **context: Any) -> bool:
    """Adds every expert's encoded text to the guider's conds, where the host batches and crops them; whether there are any.

    Runs after the host has encoded expert 0's. Where one prompt carries texts all get them, since the
    host batches only what has the same keys. Networks that make something of a prompt before they are called read
    the same prompt each in its own way.
    """
    entries = [entry for conds in guider.conds.values() for entry in conds or ()]
    if not experts[0].adapts_text and not any(CONDS_KEY in entry for entry in entries):
        return False
    for name, conds in guider.conds.items():
        # For an area of the positive prompt the host copies that entry into the negative's, with a negative text
        # in place of the encoded one only: what was encoded as one text, and not the entry, says whose it is.
        known: dict[int, dict[str, Any]] = {}
        for i, entry in enumerate(conds or ()):
            own = id(entry["model_conds"].get("c_crossattn", entry))
            if own not in known:
                known[own] = _encoded(entry, name, experts, noise, context)
            conds[i] = {**entry, "model_conds": {**entry["model_conds"], **known[own]}}
    return True


def take_texts(model_conds: dict[str, Any]) -> dict[str, Any]:
    """Removes the experts' texts from the host's keyword arguments, which a network does not take."""
    return {name: model_conds.pop(name) for name in list(model_conds) if name.startswith(PREFIX)}


def text_of(texts: dict[str, Any], index: int, kind: str) -> Tensor | None:
    """Expert `index`'s own conditioning of this name of the host's, as `take_texts` gave it."""
    return texts.get(f"{PREFIX}{index}_{kind}")


def _encoded(entry: dict, prompt_type: str, experts: list[Expert], noise: Tensor, context: dict) -> dict[str, Any]:
    """The texts of experts 1..N-1 as the host's model conds, named as `take_texts` finds them."""
    own = others_texts(entry) if CONDS_KEY in entry else [[entry.get("cross_attn"), {}]] * (len(experts) - 1)
    found = {}
    for index, (expert, (tensor, extras)) in enumerate(zip(experts[1:], own, strict=True), start=1):
        conds = [{**entry, **of_encoder(extras), "cross_attn": tensor, "model_conds": {}}]
        encoded = comfy.samplers.encode_model_conds(
            expert.patcher.model.extra_conds, conds, noise, noise.device, prompt_type, **context
        )[0]["model_conds"]
        found |= {f"{PREFIX}{index}_{kind}": encoded[kind] for kind in expert.architecture.own if kind in encoded}
    return found
