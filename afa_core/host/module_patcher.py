"""Modules of this pack as models of the host's, so that its memory manager counts and moves them."""

from __future__ import annotations

import copy

import comfy.model_patcher
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn


def module_patcher(
    module: nn.Module, load_device: torch.device, offload_device: torch.device, disable_dynamic: bool = False
) -> ModelPatcher:
    """disable_dynamic: the host's word for a patcher whose weights it does not page"""
    kind = ModelPatcher if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)
    patcher = kind(module, load_device, offload_device)
    patcher.cached_patcher_init = _another, (module, load_device, offload_device)
    return patcher


def _another(
    module: nn.Module, load_device: torch.device, offload_device: torch.device, disable_dynamic: bool = False
) -> ModelPatcher:
    """By this a newer host makes a patcher for each further GPU. The files that the weights came from need not be kept."""
    return module_patcher(copy.deepcopy(module), load_device, offload_device, disable_dynamic)
