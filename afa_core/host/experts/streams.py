"""One evaluation of one expert, alike for sampling and training.

An expert runs on the device that its loader chose for it. Where that is another one than the first expert's, features cross
at the fusion points, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from ...fusion.fusion import Embeddings
from ...fusion.lockstep import BlockStream
from ..architectures.architecture import Inputs
from .beside import acting, stream_with
from .experts import Expert, compute_dtype


def expert_stream(
    expert: Expert,
    inputs: Inputs,
    own: Mapping[str, Tensor | None],
    left_out: Container[int] = (),
    checkpointing: bool = False,
) -> tuple[BlockStream, Embeddings]:
    """The expert's forward pass, block by block, on the inputs with its own conditionings, in its own dtype.

    inputs: the network's arguments; `transformer_options` is this stream's own
    own:    conditionings of this expert by the host's names; None where it has none of that name
    """
    dtype, device, first_device = compute_dtype(expert.patcher), expert.patcher.load_device, inputs["x"].device
    control = inputs["control"] and {
        name: [residual if residual is None else residual.to(device) for residual in residuals]
        for name, residuals in inputs["control"].items()
    }
    theirs = {argument: own.get(name) for name, argument in expert.architecture.own.items()}
    inputs = {**inputs, **{name: value for name, value in theirs.items() if value is not None}}
    inputs = {
        name: value if name in ("timesteps", "transformer_options") else _cast(value, device, dtype)
        for name, value in inputs.items()
    }
    inputs["timesteps"] = inputs["timesteps"].to(device)
    with acting(expert.own_patches):
        stream, embeddings = expert.architecture.stream(
            expert.patcher.model, {**inputs, "control": control}, left_out=left_out, checkpointing=checkpointing
        )
    stream = stream_with(expert.own_patches, stream)
    if device != first_device:
        stream = _on_another_device(stream, embeddings, device, first_device)
    return stream, embeddings


def _on_another_device(
    stream: BlockStream, embeddings: Embeddings, device: torch.device, first_device: torch.device
) -> BlockStream:
    """The stream of an expert on `device`, which gives and takes features on `first_device`."""
    with closing(stream):
        feature = next(stream)
        embeddings.time, embeddings.text = _to(first_device, embeddings.time), _to(first_device, embeddings.text)
        while True:
            sent = _to(device, (yield _to(first_device, feature)))
            try:
                feature = stream.send(sent)
            except StopIteration:
                return


def _to(device: torch.device, tensor: Tensor | None) -> Tensor | None:
    return tensor if tensor is None else tensor.to(device)


def _cast(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """As the host casts what it hands to a network: whole numbers stay what they are."""
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else None)
    if isinstance(value, list):
        return [_cast(part, device, dtype) for part in value]
    return value
