"""An aggregator's fusion points, compiled by PyTorch: fewer kernels for the same arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType

import torch
from torch import Tensor

from ..aggregator.precision import CastAggregator
from ..aggregator.sabw import SABW, Aggregator, Inputs
from ..untrusted import brief
from .fusion import Feature, FusionError, blend, present
from .points import FusionPoint
from .sabw_fusion import attend
from .top_k import largest

Graph = Callable[[SABW, Sequence[Tensor], Inputs], tuple[Tensor, Tensor]]


class CompiledAttend:
    """As `attend` of a SABWFusion.

    Points of one shape share a graph, which serves latents of every size and texts of every length. Where an expert is
    left out a point is computed as it is: every set of present experts would be a graph of its own.
    """

    def __init__(self) -> None:
        self.graphs: dict[tuple[int, int, int], Graph] = {}

    def __call__(
        self,
        aggregator: Aggregator | CastAggregator,
        point: FusionPoint,
        features: Sequence[Feature],
        inputs: Inputs,
        top_k: int = 0,
    ) -> tuple[Tensor, Tensor]:
        there = present(features)
        if len(there) < len(features) or isinstance(aggregator, CastAggregator):
            return attend(aggregator, point, features, inputs, top_k)
        shape = there[0].shape[1], point.stride, top_k
        if shape not in self.graphs:
            self.graphs[shape] = _graph(point.stride, top_k)
        for feature in there:
            torch._dynamo.maybe_mark_dynamic(feature, [0, 2, 3])
        torch._dynamo.maybe_mark_dynamic(inputs.time, [0])
        for keys_values in inputs.text:
            torch._dynamo.maybe_mark_dynamic(keys_values, [1, 3])
        return self.graphs[shape](aggregator.point(point.index), there, inputs)


def _graph(stride: int, top_k: int) -> Graph:
    def at_point(sabw: SABW, features: Sequence[Tensor], inputs: Inputs) -> tuple[Tensor, Tensor]:
        return blend(features, largest(sabw(features, inputs, stride), top_k))

    # PyTorch compiles one code object a few times only, and points have more shapes than that: each has its own copy.
    code = at_point.__code__.replace()
    own = FunctionType(code, at_point.__globals__, at_point.__name__, None, at_point.__closure__)
    return torch.compile(own, fullgraph=True)


@cache
def check_compiler(device: torch.device) -> None:
    """Raises FusionError where PyTorch cannot compile for this device."""
    try:
        torch.compile(torch.nn.functional.silu)(torch.zeros(8, device=device))
    except Exception as error:
        raise FusionError(
            f"PyTorch cannot compile the aggregator on this machine ({brief(error)}): install what it needs (on NVIDIA Triton, on "
            "a CPU a C++ compiler), or set compile to false."
        ) from error
