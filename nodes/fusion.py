"""Fusions that need no training."""

from __future__ import annotations

from comfy_api.latest import io

from ..afa_core.fusion.averages import STATIC_METHODS, StaticFusion
from ..afa_core.fusion.magic import MODES, REFERENCES, MagicFusion
from ..afa_core.fusion.variance import MaxFusion
from ..afa_core.numbers import parse_numbers
from .sockets import AggregatorType, schema

MAGIC = "magic fusion"
VARIANCE = "max fusion"


class AFATrainingFreeFusion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AFATrainingFreeFusion",
            display_name="AFA Training-Free Fusion",
            description="Fuses experts by a fixed rule, without a trained aggregator.",
            search_aliases=["average models", "noise average", "block average", "magicfusion", "maxfusion", "saliency"],
            inputs=[
                io.Combo.Input(
                    "method", options=[*STATIC_METHODS, MAGIC, VARIANCE],
                    tooltip="block average: the features after every block. noise average: only the predictions. "
                    "last block average: the features before the last block, and the predictions. magic fusion: at every "
                    "position the model on which the prompt has the most effect. max fusion: at every position, after every block, "
                    "the model whose feature varies the most.",
                ),
                io.String.Input(
                    "weights", default="", optional=True,
                    tooltip="For the averages: one number a model, such as 2, 1, 1; they are scaled to a sum of 1. Empty: "
                    "equal shares.",
                ),
                io.String.Input(
                    "temperatures", default="", optional=True,
                    tooltip="For magic fusion: one number a model; with a larger one its model is taken at fewer places. "
                    "They multiply with cfg. Empty: 1 for each.",
                ),
                io.Combo.Input(
                    "mode", options=list(MODES), default=MODES[0], optional=True,
                    tooltip="For magic fusion. fuse throughout: all models at every step; model_1 first: it alone decides the composition; fuse first: model_1 alone finishes the picture.",
                ),
                io.Int.Input(
                    "switch_timestep", default=850, min=0, max=999, optional=True,
                    tooltip="For magic fusion with a switch: the timestep at which it happens. Sampling runs from 999 to 0.",
                ),
                io.Combo.Input(
                    "reference", options=list(REFERENCES), default=REFERENCES[0], optional=True,
                    tooltip="For magic fusion: whose unguided prediction the guided ones are compared with. model_1 is what "
                    "the MagicFusion authors' code does.",
                ),
                io.Float.Input(
                    "softness", default=0.0, min=0.0, max=10.0, step=0.05, optional=True,
                    tooltip="For magic fusion: 0 takes one model at every position, as the paper does; more blends the models.",
                ),
                io.Boolean.Input(
                    "resolution_aware", default=False, optional=True,
                    tooltip="For magic fusion: smooth the saliency over the same part of the picture at every size. Off is what "
                    "the paper does at 512 pixels.",
                ),
            ],
            outputs=[AggregatorType.Output(display_name="aggregator")],
        )  # fmt: skip

    @classmethod
    def execute(cls, method: str, weights: str = "", temperatures: str = "", **settings) -> io.NodeOutput:
        if method == MAGIC:
            return io.NodeOutput(MagicFusion(parse_numbers("The temperatures", temperatures), **settings))
        if method == VARIANCE:
            return io.NodeOutput(MaxFusion())
        return io.NodeOutput(StaticFusion(method, parse_numbers("The weights", weights)))
