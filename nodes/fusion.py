"""Fusions that need no training."""

from __future__ import annotations

import re

from comfy_api.latest import io

from ..afa_core.fusion import STATIC_METHODS, FusionError, StaticFusion
from .sockets import AggregatorType, schema


class AFATrainingFreeFusion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AFATrainingFreeFusion",
            display_name="AFA Training-Free Fusion",
            description="Fuses experts by a fixed rule, without a trained aggregator.",
            search_aliases=["average models", "noise average", "block average"],
            inputs=[
                io.Combo.Input(
                    "method", options=list(STATIC_METHODS),
                    tooltip="block average: the features after every block. noise average: only the predictions. "
                    "last block average: the features before the last block, and the predictions.",
                ),
                io.String.Input(
                    "weights", default="", optional=True,
                    tooltip="One number a model, such as 2, 1, 1; they are scaled to a sum of 1. Empty: equal shares.",
                ),
            ],
            outputs=[AggregatorType.Output(display_name="aggregator")],
        )  # fmt: skip

    @classmethod
    def execute(cls, method: str, weights: str = "") -> io.NodeOutput:
        return io.NodeOutput(StaticFusion(method, parse_weights(weights)))


def parse_weights(text: str) -> tuple[float, ...]:
    """Numbers apart by commas or spaces. Raises FusionError for anything else."""
    try:
        return tuple(float(part) for part in re.split(r"[\s,;]+", text.strip()) if part)
    except ValueError as error:
        raise FusionError(f"The weights should be numbers such as 2, 1, 1, found {text!r:.60}.") from error
