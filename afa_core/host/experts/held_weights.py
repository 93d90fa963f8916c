"""Weights that the host brings in for every use, held from the first expert's use of a block to the last one's.

Where memory is short the host keeps weights on another device, or in fewer bits, and casts them at every call of a layer.
Experts that share a network call each layer in turn, block by block, so one cast serves them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import comfy.model_management
import comfy.ops
from torch import Tensor, nn

CASTING = (comfy.ops.disable_weight_init, comfy.ops.manual_cast)
"""The host's operations whose cast is a plain one: a weight that is there already is used as it is."""
PART_OF_FREE_MEMORY = 0.5
"""How much of it may be held; layers beyond that are cast for every expert."""


class HeldWeights:
    """room: bytes that may be held at a time."""

    def __init__(self, room: float):
        self.room = self.left = room
        self._originals: list[tuple[nn.Module, str, nn.Parameter]] = []

    def bring(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A pre-hook: the layer finds its parameters on the device, and in the dtype, of what it is called with."""
        x = inputs[0]
        for name, parameter in layer.named_parameters(recurse=False):
            size = parameter.numel() * x.element_size()
            if (parameter.device, parameter.dtype) == (x.device, x.dtype) or size > self.left:
                continue
            self.left -= size
            self._originals.append((layer, name, parameter))
            at_once = comfy.model_management.device_supports_non_blocking(x.device)
            brought = comfy.model_management.cast_to(parameter, x.dtype, x.device, non_blocking=at_once)
            setattr(layer, name, nn.Parameter(brought, requires_grad=False))

    def release(self) -> None:
        while self._originals:
            layer, name, parameter = self._originals.pop()
            setattr(layer, name, parameter)
        self.left = self.room


@contextmanager
def held_weights(networks: Iterable[nn.Module], device) -> Iterator[HeldWeights]:
    """Holds what layers of these networks would cast, until `release` is called; all are released at the end."""
    with ExitStack() as stack:
        layers = [layer for network in networks for layer in network.modules() if _casts(layer)]
        held = HeldWeights(PART_OF_FREE_MEMORY * comfy.model_management.get_free_memory(device) if layers else 0)
        stack.callback(held.release)
        for layer in layers:
            stack.enter_context(layer.register_forward_pre_hook(held.bring))
        yield held


def _casts(layer: nn.Module) -> bool:
    """Whether a layer casts its parameters, and does no more: newer hosts' dynamic memory, and patches, are left alone."""
    return (
        getattr(layer, "comfy_cast_weights", False)
        and any(getattr(operations, type(layer).__name__, None) is type(layer) for operations in CASTING)
        and not (layer.weight_function or layer.bias_function or hasattr(layer, "_v"))
    )
