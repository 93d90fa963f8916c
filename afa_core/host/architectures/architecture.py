"""What the pack needs of a family of networks. Each family is one file beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping
from typing import Any, ClassVar

from comfy.model_base import BaseModel
from torch import Tensor

from ...fusion.fusion import Embeddings
from ...fusion.lockstep import BlockStream
from ...fusion.points import FusionPoint

Inputs = dict[str, Any]
"""One call of a network: its arguments by name. `x`, `timesteps`, `control` and `transformer_options` are in all families."""


class Architecture(ABC):
    """A family of networks of the host's.

    title:     what the family is called in a list of those that are supported
    arguments: names of the positional arguments of the host's DIFFUSION_MODEL call
    own:       the host's model conds that every expert has of its own, each with the argument it becomes
    topology:  keys of the host's network configuration that experts must share
    tokens:    whether features are tokens of a transformer
    text_adapter: the part of its network, if any, that makes a text of a prompt before the network is called
    joint_text: whether text and picture share one attention, in which a repeated token of the text counts twice
    runs_compiled_blocks: whether its stream calls a network's blocks one by one, as the host does
    downscale: pixels that one position of a latent spans, where no VAE is given
    """

    title: ClassVar[str]
    arguments: ClassVar[tuple[str, ...]]
    own: ClassVar[Mapping[str, str]]
    topology: ClassVar[tuple[str, ...]]
    tokens: ClassVar[bool] = False
    runs_compiled_blocks: ClassVar[bool] = False
    joint_text: ClassVar[bool] = False
    text_adapter: ClassVar[str | None] = None
    downscale: ClassVar[int] = 8

    @abstractmethod
    def matches(self, model: BaseModel) -> bool:
        """Whether this family can run a model block by block."""

    @abstractmethod
    def name(self, model: BaseModel) -> str:
        """What users call this kind of model: SD1.x, SDXL, ..."""

    @abstractmethod
    def points(self, model: BaseModel) -> list[FusionPoint]:
        """Every place where features of experts can be fused, in the order of a forward pass."""

    @abstractmethod
    def text_width(self, model: BaseModel) -> int:
        """D of the text [B, L, D] that an aggregator reads."""

    @abstractmethod
    def time_width(self, model: BaseModel) -> int:
        """T of the time embedding [B, T] that an aggregator reads."""

    @abstractmethod
    def stream(
        self, model: BaseModel, inputs: Inputs, left_out: Container[int] = (), checkpointing: bool = False
    ) -> tuple[BlockStream, Embeddings]:
        """One forward pass of a network, block by block; its embeddings are known at the first yield.

        inputs:        the stream's own: the host's code writes into `control` and `transformer_options`
        left_out:      indices of the fusion points whose block is not computed: None is yielded there
        checkpointing: a backward pass computes every block again instead of keeping its activations
        """

    @abstractmethod
    def merge_blocks(self, model: BaseModel) -> dict[str, tuple[str, ...]]:
        """The names that merging tools give to blocks, each with the prefixes of the network's keys in it."""

    def diffusers_names(self, shapes: Mapping[str, Tensor]) -> dict[str, str] | None:
        """The network's keys by those of a file in diffusers' layout; None for another layout.

        shapes: tensors on the meta device by the file's keys
        """
        return None

    def prompt_width(self, model: BaseModel) -> int:
        """Width of the text that a prompt must be encoded to."""
        return self.text_width(model)

    def fused(self, points: list[FusionPoint]) -> tuple[int, ...] | None:
        """Indices of the points that a new aggregator fuses; None: all of them."""
        return None

    def adapts_text(self, model: BaseModel) -> bool:
        """Whether weights of its own turn a prompt into the text that the network is called with."""
        return self.text_adapter is not None and hasattr(model.diffusion_model, self.text_adapter)

    def reads_guidance(self, model: BaseModel) -> bool:
        """Whether it was distilled to read guidance as a number."""
        return False

    def named(self, args: tuple, kwargs: dict[str, Any]) -> Inputs:
        """The arguments of a DIFFUSION_MODEL call by their names."""
        return {**dict.fromkeys(self.arguments), **dict(zip(self.arguments, args, strict=False)), **kwargs}

    def positional(self, inputs: Inputs) -> tuple[list, dict[str, Any]]:
        """The inverse of `named`, in the layout that other packs' wrappers expect."""
        rest = {name: value for name, value in inputs.items() if name not in self.arguments}
        return [inputs[name] for name in self.arguments], rest

    def fusion_memory(self, points: list[FusionPoint], experts: int, hidden: int, itemsize: int) -> float:
        """Bytes that fusing takes for each position of a latent [B, C, H, W], at the most demanding point.

        Experts run in turn, so on top of one expert's activations come the features of all and their concatenation,
        and in the aggregator the feed-forward and attention of the tokens. hidden: 0 without an aggregator.
        """
        return itemsize * max((2 * experts * point.channels + 14 * hidden) / point.stride**2 for point in points)
