"""Which experts run on one set of weights, and which need a network of their own.

The host patches weights in place. Experts that are clones of one network therefore share the patches that all of them
have, and the rest of each acts beside the weights.
"""

from __future__ import annotations

import copy
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import comfy.utils
from comfy.model_patcher import ModelPatcher

from ..module_patcher import module_patcher
from .beside import LayerHooks, Patch, PatchesBeside, adding, obstacle
from .compiled_blocks import compiled_parts, without_compiled_blocks
from .experts import KEY, Expert, ExpertError, compute_dtype

Patches = dict[str, list[Patch]]
"""The host's weight patches: of every weight's name, in the order in which they are applied."""


_Own = tuple[str, Any, Patch]
"""A patch that an expert does not share: the name of its layer, the layer, the patch."""


@dataclass
class _Network:
    """Experts that run on one set of weights, and the patches in it."""

    members: list[Expert]
    common: Patches

    @property
    def patcher(self) -> ModelPatcher:
        return self.members[0].patcher

    def take(self, expert: Expert) -> str | None:
        """Makes an expert a member, or gives the reason why it cannot run on these weights."""
        if expert.patcher.object_patches != self.patcher.object_patches:
            return "a replaced part"
        if compiled_parts(expert.patcher) != compiled_parts(self.patcher):
            return "a compiled block"
        if expert.patcher.hook_patches.keys() != self.patcher.hook_patches.keys():
            return "a scheduled LoRA of its own"
        # A compiled block is the same for every expert that runs.
        compiled = compiled_parts(expert.patcher) or any(
            name.startswith("diffusion_model.") for name in expert.patcher.object_patches
        )
        common = _common(self.common, expert.patcher.patches)
        adapter = expert.architecture.text_adapter
        for member in (*self.members, expert):
            for name, layer, patch in _rest(member.patcher, common):
                if adapter and name.startswith(f"diffusion_model.{adapter}."):
                    return "a patch of what adapts its prompts"
                if reason := "a patch of a replaced block" if compiled else obstacle(patch, layer):
                    return reason
        self.members.append(expert)
        self.common = common
        return None


def share_networks(experts: list[Expert]) -> list[Expert]:
    """The experts on as few networks as they need; what is an expert's own beside the weights is in its `beside`.

    Raises ExpertError where experts of one network differ by what other nodes do to its layers.
    """
    networks: list[_Network] = []
    for expert in experts:
        if reason := _place(expert, networks):
            logging.warning(
                f"AFA: {expert.label} runs on a copy of its network: {reason} cannot act beside weights that others use."
            )
    placed: dict[int, Expert] = {}
    used: set[int] = set()
    for network in networks:
        shared = _built(network, is_copy=id(network.patcher.model) in used)
        used.add(id(network.patcher.model))
        placed |= {id(expert): built for expert, built in zip(network.members, shared, strict=True)}
    return [placed[id(expert)] for expert in experts]


def networks_in_turn(experts: list[Expert]) -> list[dict[int, Expert]]:
    """Experts that are evaluated one network after the other, by their places: none of them needs a copy.

    Raises ExpertError as `share_networks` does.
    """
    networks: list[_Network] = []
    for expert in experts:
        _place(expert, networks)
    places = {id(expert): place for place, expert in enumerate(experts)}
    return [
        {places[id(expert)]: built for expert, built in zip(network.members, _built(network), strict=True)}
        for network in networks
    ]


def _place(expert: Expert, networks: list[_Network]) -> str | None:
    """Adds the expert to the first network that can take it, else a network of its own; why it needs a copy, if so."""
    reason = None
    for network in networks:
        if expert.patcher.is_clone(network.patcher):
            _check_injections(expert, network.members[0])
            reason = network.take(expert)
            if reason is None:
                return None
    networks.append(_Network([expert], expert.patcher.patches))
    return reason


def _built(network: _Network, is_copy: bool = False) -> list[Expert]:
    """The members over one network with the common patches in it, each with its own patches beside it."""
    own = [list(_rest(member.patcher, network.common)) for member in network.members]
    if not is_copy and not any(own):
        return network.members
    patcher = copied(network.patcher) if is_copy else network.patcher.clone()
    patcher.patches = {key: list(patches) for key, patches in network.common.items()}
    if is_copy:
        without_compiled_blocks(patcher)
    if any(own):
        # The same patches of the same experts are the same to the host's manager: they stay loaded between runs.
        counts = sorted((key, len(patches)) for key, patches in network.common.items())
        patcher.patches_uuid = uuid.uuid5(patcher.patches_uuid, str(counts))
    hooks = LayerHooks()
    patcher.set_injections(KEY, [hooks.injection])
    experts = []
    for member, rest in zip(network.members, own, strict=True):
        on_it = patcher.clone()
        on_it.model_options = member.patcher.model_options
        on_it.wrappers, on_it.callbacks = member.patcher.wrappers, member.patcher.callbacks
        experts.append(replace(member, patcher=on_it, beside=_beside(on_it, rest, hooks)))
    return experts


def _beside(patcher: ModelPatcher, patches: list[_Own], hooks: LayerHooks) -> ModelPatcher | None:
    """A model of the host's that holds an expert's own patches, so that its memory manager counts and moves them."""
    dtype = compute_dtype(patcher)
    by_layer = {}
    for name, layer, patch in patches:
        by_layer.setdefault(name, []).append(adding(patch, layer, dtype))
    if not by_layer:
        return None
    return module_patcher(PatchesBeside(by_layer, hooks), patcher.load_device, patcher.offload_device)


def _common(one: Patches, other: Patches) -> Patches:
    """The patches that both begin with."""
    both: Patches = {}
    for key, patches in one.items():
        count = 0
        for mine, theirs in zip(patches, other.get(key, ()), strict=False):
            if mine is not theirs:
                break
            count += 1
        if count:
            both[key] = patches[:count]
    return both


def _rest(patcher: ModelPatcher, common: Patches) -> Iterator[_Own]:
    """What a patcher has beyond the common patches, without patches of strength 0."""
    for key, patches in patcher.patches.items():
        name, _, kind = key.rpartition(".")
        for patch in patches[len(common.get(key, ())) :]:
            if patch[0] != 0 or patch[2] != 1:
                # Beside a layer only its weight can be patched.
                yield name, comfy.utils.get_attr(patcher.model, name if kind == "weight" else key), patch


def _check_injections(expert: Expert, other: Expert) -> None:
    if expert.patcher.injections != other.patcher.injections:
        raise ExpertError(
            f"{expert.label} and {other.label} are one checkpoint with layers that another node replaces while it runs, as "
            "a LoRA loader in bypass mode does: use the ordinary Load LoRA nodes, whose LoRAs an ensemble runs beside the "
            "weights by itself."
        )


def unpaged(experts: list[Expert]) -> list[Expert]:
    """The experts over weights that gradients can go through.

    A newer host may page weights in from their file while they are used; it then reads them from there again, without
    that. Clones of one network go on sharing one.
    """
    read: dict[int, ModelPatcher] = {}
    found = []
    for expert in experts:
        patcher = expert.patcher
        if hasattr(patcher, "is_dynamic") and patcher.is_dynamic():
            first = read.get(id(patcher.model))
            patcher = patcher.clone(disable_dynamic=True, model_override=first and first.get_clone_model_override())
            read.setdefault(id(expert.patcher.model), patcher)
        found.append(replace(expert, patcher=patcher))
    return found


def copied(patcher: ModelPatcher) -> ModelPatcher:
    """A patcher over an unpatched network of its own, with the same patches still to be applied."""
    if hasattr(patcher, "is_dynamic") and patcher.is_dynamic():
        # Its weights lie in virtual memory of the host's, which a copy would share: the host reads the file again.
        n = patcher.clone(force_deepcopy=True)
    else:
        patcher.unpatch_model(patcher.offload_device)
        n = patcher.clone()
        config = patcher.model.model_config
        n.model = copy.deepcopy(patcher.model, {id(config): config})  # newer hosts' cannot be copied, and is read only
        n.backup, n.object_patches_backup, n.hook_backup, n.pinned = {}, {}, {}, set()
    n.parent = None
    if hasattr(n, "clone_base_uuid"):  # by which a host with several GPUs identifies networks
        n.clone_base_uuid = uuid.uuid4()
    return n
