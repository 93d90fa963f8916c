"""Copies from a device to the computer's own memory that the program does not wait for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """A tensor on its way to the CPU. On a CUDA device the copy runs behind the work that is queued there."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor.to("cpu", non_blocking=tensor.is_cuda)
        self.event = recorded(tensor.device)

    @property
    def has_arrived(self) -> bool:
        return self.event is None or self.event.query()

    def wait(self) -> Tensor:
        if not self.has_arrived:
            self.event.synchronize()
        return self.tensor


def recorded(device: torch.device) -> Any:
    """An event behind everything that is queued on a CUDA device; None elsewhere, where copies are done at once."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event
