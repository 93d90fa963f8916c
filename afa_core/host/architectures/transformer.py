"""What the diffusion transformers (DiTs) of the host have in common. Each family is one short file beside this one."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Container, Mapping
from typing import Any, ClassVar

import torch
from comfy.ldm.flux.layers import timestep_embedding
from comfy.model_base import BaseModel
from einops import rearrange
from torch import Tensor, nn

from ...fusion.fusion import Embeddings
from ...fusion.lockstep import BlockStream, absent
from ...fusion.points import FusionPoint
from .architecture import Architecture, Inputs
from .block_thread import Pause
from .differentiable import Rebound
from .transformer_stream import Block, Pass

EVERY = 4
"""Which blocks a new aggregator fuses: one for each of Flux's 57 would be 232M parameters. The last one always."""

TIME_WIDTH = 256
"""Of the sinusoidal time embedding of families whose blocks share no time vector."""


class Transformer(Architecture):
    """A family of transformers over patches of a latent.

    Features are the tokens of the noisy picture. Those of text, of reference pictures and of padding stay each
    expert's own: their number and meaning differ between experts, and an attention map over places is not about them.
    """

    tokens = True
    joint_text = True
    has_frames: ClassVar[bool] = False
    """Whether its latents are [B, C, 1, H, W]."""
    network: ClassVar[type[nn.Module] | None]
    """None where the host does not have the family."""
    block_lists: ClassVar[Mapping[str, str]]
    """The network's lists of blocks by the letter that merging gives to their blocks, in the order of the forward pass."""

    def matches(self, model: BaseModel) -> bool:
        return type(network_of(model)) is self.network

    def name(self, model: BaseModel) -> str:
        return self.title

    @abstractmethod
    def blocks(self, network: Any) -> list[Block]:
        """All blocks, in the order of the forward pass."""

    @abstractmethod
    def embed(self, network: Any, call: dict[str, Any], inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Time [B, T] and text [B, L, D], from what the first block is called with."""

    @abstractmethod
    def width(self, network: Any) -> int:
        """C of the hidden states [B, L, C]."""

    def text_width(self, model: BaseModel) -> int:
        return self.width(network_of(model))

    def time_width(self, model: BaseModel) -> int:
        return self.width(network_of(model))

    def patch_size(self, network: Any) -> int:
        """Side of the square of the latent that one token stands for."""
        return network.patch_size

    def latent_channels(self, network: Any) -> int:
        """C of the prediction [B, C, H, W]."""
        return network.out_channels

    def feature(self, hidden: Tensor, start: int, size: tuple[int, int]) -> Tensor:
        """The noisy picture's tokens as a view [B, C, H, W]; `start` others come before them."""
        height, width = size
        return rearrange(hidden[:, start : start + height * width], "b (h w) c -> b c h w", h=height)

    def replaced(self, hidden: Tensor, start: int, feature: Tensor) -> Tensor:
        """`hidden` with other tokens of the noisy picture, in memory of its own: the host writes into it."""
        tokens = rearrange(feature, "b c h w -> b (h w) c")
        return torch.cat((hidden[:, :start], tokens, hidden[:, start + tokens.shape[1] :]), dim=1)

    def points(self, model: BaseModel) -> list[FusionPoint]:
        network = network_of(model)
        names = [block.name for block in self.blocks(network)]
        points = [FusionPoint(i, name, self.width(network), self.patch_size(network)) for i, name in enumerate(names)]
        return [*points, FusionPoint(len(names), "prediction", self.latent_channels(network), 1)]

    def merge_blocks(self, model: BaseModel) -> dict[str, tuple[str, ...]]:
        lists = {letter: (name, len(getattr(network_of(model), name))) for letter, name in self.block_lists.items()}
        return {f"{letter}{i:02}": (f"{name}.{i}.",) for letter, (name, count) in lists.items() for i in range(count)}

    def fused(self, points: list[FusionPoint]) -> tuple[int, ...]:
        blocks = len(points) - 1
        return tuple(i for i in range(len(points)) if i % EVERY == EVERY - 1 or i >= blocks - 1)

    def stream(
        self, model: BaseModel, inputs: Inputs, left_out: Container[int] = (), checkpointing: bool = False
    ) -> tuple[BlockStream, Embeddings]:
        """No block is left out by itself: the text that goes through it would stay behind."""
        embeddings = Embeddings()
        if all(point.index in left_out for point in self.points(model)):
            return absent(), embeddings
        network = network_of(model)
        if self.has_frames and inputs["x"].ndim == 4:
            inputs = {**inputs, "x": inputs["x"].unsqueeze(2)}
        if torch.is_grad_enabled():
            inputs = {name: _rebound(value) for name, value in inputs.items()}
        args, kwargs = self.positional(inputs)
        size = tuple(-(-side // self.patch_size(network)) for side in inputs["x"].shape[-2:])

        def start(call: dict[str, Any]) -> None:
            embeddings.time, embeddings.text = (_plain(each) for each in self.embed(network, call, inputs))

        def exchange(block: Block, hidden: Tensor, pause: Pause) -> Tensor:
            before = embeddings.text.shape[1] if block.joint and embeddings.text is not None else 0
            own = _plain(self.feature(hidden, before, size))
            sent = pause(own)
            return hidden if sent is own else self.replaced(hidden, before, sent.to(hidden.dtype))

        run = Pass(
            lambda: _plain(network._forward(*args, **kwargs)),
            self.blocks(network), inputs["transformer_options"], start, exchange,
        )  # fmt: skip
        return run.stream(inputs["x"].device, checkpointing), embeddings


def network_of(model: Any) -> Any:
    """The network of a host's model, of whatever class."""
    return model.diffusion_model


def arguments_of(forward: Callable) -> tuple[str, ...]:
    """Names of the arguments that a network of the host's hands to DIFFUSION_MODEL wrappers by position."""
    kinds = inspect.Parameter
    positional = (
        p.name for p in inspect.signature(forward).parameters.values() if p.kind is kinds.POSITIONAL_OR_KEYWORD
    )
    return tuple("timesteps" if name == "timestep" else name for name in positional if name != "self")


def sinusoid(inputs: Inputs) -> Tensor:
    """The timesteps as an embedding [B, 256], for families whose first block gets no time vector."""
    return timestep_embedding(inputs["timesteps"], TIME_WIDTH).to(inputs["x"].dtype)


def _rebound(value: Any) -> Any:
    return value.as_subclass(Rebound) if isinstance(value, Tensor) and value.is_floating_point() else value


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor) if isinstance(tensor, Rebound) else tensor
